"""__init__.py - what the sessions of noxfile.py are made of."""
