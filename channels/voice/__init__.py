"""The telephone (Twilio): a phone tree for people who are afraid, in ten languages.

    /voice/call      language menu, by key or by saying its name
    /voice/language  → her own words, or topics by key
    /voice/heard     → the answer: again, by SMS, another question
    /voice/person    → counsellors are rung one after another, else a recording
    /voice/bridge    a counsellor calls a worker from the console

Unlike other channels this one answers inside the request: it writes the words down, waits for the
turn, reads the answer from the log and speaks it. Keys mean the same everywhere: 0 a person, 9
danger, * another language, # once more.
"""

from channels.voice.calls import Voice
from channels.voice.switchboard import Switchboard

__all__ = ["Switchboard", "Voice"]
