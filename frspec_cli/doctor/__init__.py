"""Why a draft head accepts little: its answers replayed under every reading that could be wrong."""
