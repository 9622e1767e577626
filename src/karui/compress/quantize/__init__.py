"""How each number is written: integers, few bits."""
