"""Which dtype and which draft tree a machine wants: costs of steps, acceptance, predictions, measurements."""
