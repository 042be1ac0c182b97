"""The counsellors' console: server-rendered pages, made live by server-sent events.

`routes.py` lists every page with who may open it; nothing else grants access.
"""

from handoff.console.routes import ConsoleContext, console_routes

__all__ = ["ConsoleContext", "console_routes"]
