"""What an operator and an editor set: settings, the database, facts, texts. The lowest room."""
