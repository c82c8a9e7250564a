"""__init__.py - helpers of the sessions in noxfile.py."""
