"""Results as tables, pictures and one page. Reads nothing but the JSON that other commands wrote."""
