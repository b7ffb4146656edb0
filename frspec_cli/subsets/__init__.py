"""Counts to a vocabulary subset: choose, cover, mix; read and write every foreign format."""
