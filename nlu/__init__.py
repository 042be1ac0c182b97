"""How the desk understands: language, topic, risk. Rasa runs beside it, behind HTTP."""
