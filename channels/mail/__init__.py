"""Reading and writing mails: what the e-mail channel (`channels/email.py`) is made of."""
