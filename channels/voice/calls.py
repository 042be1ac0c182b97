"""The conversation: what a caller hears at each step, and what becomes of what she says.

Where a person takes over, `persons.py` goes on.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route
from twilio.twiml.voice_response import VoiceResponse

from channels.context import ChannelContext
from channels.log import Conversation, find_conversation, open_conversation
from channels.message import (
    Button,
    Finding,
    InboundMessage,
    Limits,
    NotConfiguredError,
    OutboundMessage,
    Receipt,
    RefusedError,
    RejectedError,
)
from channels.twilio_account import TwilioSettings, form
from channels.voice import call as log_of_calls
from channels.voice.account import Account
from channels.voice.call import Answer, Call
from channels.voice.persons import Persons
from channels.voice.prompts import folder_of
from channels.voice.speech import Speech, hints, listen, load_sounds
from channels.voice.switchboard import Switchboard
from config.texts import Text

PATIENCE = 8.0
"""Seconds that a step waits for an answer; Twilio gives up after 15."""
MOST_WAITS = 6
"""Steps of waiting after which a person takes over."""
PERSON, DANGER, LANGUAGE, AGAIN = "0", "9", "*", "#"
ENDS = {"voice.smalltalk.goodbye", "smalltalk.goodbye", "delete.done"}
"""Texts after which we hang up."""
OVER = {"completed", "busy", "failed", "no-answer", "canceled"}
PROMPT = re.compile(r"[0-9a-f]{64}\.wav")

Step = Callable[[Call], Awaitable[VoiceResponse]]


class Voice:
    """The telephone. `switchboard`: the desk; `words`: every published text."""

    name: ClassVar[str] = "voice"
    limits: ClassVar[Limits] = Limits(text=100_000, buttons=20, group=20)

    def __init__(
        self,
        context: ChannelContext,
        settings: TwilioSettings,
        switchboard: Switchboard,
        words: Mapping[tuple[str, str], Text],
    ) -> None:
        self.inbox, self.database = context.inbox, context.database
        self.settings, self.switchboard = settings, switchboard
        self.url = context.settings.url
        self.sounds = load_sounds()
        folder = folder_of(context.settings.data_dir)
        self.speech = Speech(self.sounds, words, context.texts, folder, self.url)
        self.texts = context.texts
        self.account = Account(settings, context.settings, self.speech)
        self.persons = Persons(context, settings, switchboard, self.speech)

    def routes(self) -> Sequence[BaseRoute]:
        """One route per step, and the recordings that Twilio plays."""
        steps: dict[str, Step] = {
            "call": self.call,
            "language": self.language,
            "heard": self.heard,
            "wait": self.wait,
            "status": self.status,
            "fallback": self.fallback,
            **self.persons.steps(),
        }
        return [
            *(
                Route(f"/voice/{name}", self._route(one), methods=["POST"])
                for name, one in steps.items()
            ),
            Route("/voice/prompts/{language}/{file}", self.prompt),
        ]

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Nothing to listen on: Twilio calls."""
        return nullcontext()

    def _route(self, step: Step) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                fields = await form(request, self.settings, self.url)
                twiml = await step(log_of_calls.read(request, fields, self.sounds.languages))
            except PermissionError:
                return Response("The signature is not Twilio's.", 403)
            except RefusedError as error:
                return Response(str(error), 400)
            return Response(str(twiml), media_type="text/xml")

        return answer

    # -- out ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """The call reads its answers from the log; other words cannot be heard on a telephone."""
        for message in messages:
            number = int(message.key.partition("/")[0])
            waits = await self.database.read(log_of_calls.speaks_to_a_call, number)
            if message.from_counsellor or not waits:
                raise NotConfiguredError(
                    "what is written cannot be heard: call the worker, or write by SMS"
                )
            if message.thread.get("over"):
                raise RejectedError("the caller hung up before the answer came: call back")
        return ["" for _ in messages]

    async def busy(self, address: str, thread: dict[str, Any]) -> None:
        """The call says itself that it takes a moment."""

    async def fetch(self, source: str) -> tuple[str, bytes]:
        """A recording of the account."""
        return await self.account.recording(source)

    def entrance(self, words: str) -> str:  # noqa: ARG002 - she says or keys the code herself
        """A call to the desk."""
        return f"tel:{self.settings.voice_number}"

    async def check(self) -> list[Finding]:
        """Account, number, web hooks, public URL, recordings."""
        return await self.account.check()

    async def setup(self) -> list[Finding]:
        """Set the web hooks of the number."""
        return await self.account.setup()

    async def ring(self, number: str, case_id: int, staff_id: int, conversation_id: int) -> str:
        """Ring a counsellor who wants to call a worker; returns Twilio's id of the call.

        Raises:
            SendError: Twilio did not take it.
        """
        return await self.account.ring(
            number, f"/voice/bridge?c={case_id}&s={staff_id}&w={conversation_id}"
        )

    # -- the beginning ------------------------------------------------------------------------

    async def call(self, call: Call) -> VoiceResponse:
        """Somebody calls. Who called before is greeted in her language, all others by the menu."""
        known = await self.database.write(_begin, call.address)
        response = VoiceResponse()
        if known in self.sounds.languages:
            self.speech.say(response, "voice.greeting.first", known)
            return self._listen(response, call, known, 1)
        return self._menu(response, call, tries=0)

    def _menu(
        self, response: VoiceResponse, call: Call, tries: int, page: int = 0
    ) -> VoiceResponse:
        """Each language says its own key. The recogniser listens for names of languages."""
        action = call.url("language", p=page, n=call.step + 1, t=tries, m=0, k="")
        gather = listen(
            response, self.sounds.languages["en"], self.url + action, hints=hints(self.sounds)
        )
        for key, code in self.sounds.keys(page).items():
            self.speech.say(gather, "voice.language", code, key=key)
        for code in () if page else self.sounds.others:
            self.speech.say(gather, "voice.language", code, key="8")
        return response

    async def language(self, call: Call) -> VoiceResponse:
        """She pressed the key of a language, or said something."""
        page, response = call.whole("p"), VoiceResponse()
        chosen = self.sounds.keys(page).get(call.digits, "")
        if call.speech and not call.digits:
            chosen = self.sounds.named(call.speech)
        if chosen:
            name = self.texts().languages[chosen].name
            return await self._bring(call, name, chosen, f"/language {chosen}")
        if call.digits in (PERSON, DANGER):
            return self._to_person(response, call, call.digits == DANGER)
        if call.digits == "8" and not page:
            return self._menu(response, call, tries=0, page=1)
        if call.speech and not call.digits:  # no language, but words: danger is never overlooked
            return await self._bring(call, call.speech, "")
        if call.digits:
            return self._menu(response, call, tries=call.tries)
        if call.tries:
            return self._to_person(response, call)
        return self._menu(response, call, tries=1, page=page)

    # -- the conversation ---------------------------------------------------------------------

    def _listen(
        self,
        response: VoiceResponse,
        call: Call,
        language: str,
        step: int,
        tries: int = 0,
        message: int = 0,
        keys: str = "",
        options: Sequence[Button] = (),
        invites: bool = False,
    ) -> VoiceResponse:
        """Say what the keys mean now, and listen. `invites`: the options are only examples."""
        sound = self.sounds.languages.get(language)
        by_key = sound is None or sound.keys_first
        if by_key and not options and keys != "answer":
            keys, message = "topics", 0
            options = self._topics(language)
        elif options:
            keys = "choices"
        action = call.url("heard", l=language, n=step, t=tries, m=message, k=keys)
        gather = listen(response, None if by_key else sound, self.url + action)

        def say(text_id: str, **params: str) -> None:
            self.speech.say(gather, text_id, language, **params)

        if options:
            for text_id in ("voice.ask", "menu.topics") if invites else ("voice.choose",):
                say(text_id)
            for key, option in enumerate(options, 1):
                say("voice.option", key=str(key))
                text_id = option.value.partition(" ")[2]
                self.speech.read(gather, f"faq/{text_id}/title", language, option.label)
        if keys == "topics":
            say("voice.option", key=str(len(options) + 1))
            say("voice.leave")
        elif keys == "answer":
            say("voice.again")
            if self._can_text(call):
                say("voice.by_sms")
            say("voice.other")
        elif not options:
            say("voice.ask")
        return response

    def _topics(self, language: str) -> list[Button]:
        """The main topics that have a text in the language."""
        words = self.speech.words
        titles = [
            (topic, words.get((f"faq/{topic}/title", language)))
            for topic in self.sounds.topics
            if (f"faq/{topic}", language) in words
        ]
        return [Button(title.body, f"/topic {topic}") for topic, title in titles if title]

    def _can_text(self, call: Call) -> bool:
        """Whether an answer can go by SMS: in Japan only to numbers of mobile phones."""
        mobile = not call.number.startswith("+81") or call.number[3:5] in {"60", "70", "80", "90"}
        return bool(self.settings.sms_number and call.number and mobile)

    async def heard(self, call: Call) -> VoiceResponse:
        """She pressed a key, said something, or was silent."""
        response = VoiceResponse()
        if call.digits:
            return await self._key(call, response)
        if call.speech:
            return await self._bring(call, call.speech, call.language)
        if call.step == 1 and not call.tries:  # perhaps somebody else on the same telephone
            return self._menu(response, call, tries=0)
        if call.tries:
            return self._to_person(response, call)
        self.speech.say(response, "voice.unheard", call.language)
        return await self._once_more(call, response, tries=1)

    async def _key(self, call: Call, response: VoiceResponse) -> VoiceResponse:
        key = call.digits
        if key in (PERSON, DANGER):
            return self._to_person(response, call, key == DANGER)
        if key == LANGUAGE:
            return self._menu(response, call, tries=0)
        if call.keys == "wait":  # another key while the answer is on its way
            return await self._hear(call, call.message, call.language, 0)
        number = int(key) if key.isdigit() else 0
        if call.keys == "topics":
            topics = self._topics(call.language)
            if 0 < number <= len(topics):
                chosen = topics[number - 1]
                return await self._bring(call, chosen.label, call.language, chosen.value)
            if number == len(topics) + 1:
                response.redirect(self.url + call.url("leave", n=call.step + 1, t=0, k=""))
                return response
        if call.keys == "choices":
            known = await self._answer(call, call.message)
            if 0 < number <= len(known.options):
                option = known.options[number - 1]
                return await self._bring(call, option.label, call.language, option.value)
        if call.keys == "answer" and key == "2" and self._can_text(call):
            return await self._by_sms(call, response)
        if call.keys == "answer" and key == "3":
            return self._listen(response, call, call.language, call.step + 1)
        if key == AGAIN or (call.keys == "answer" and key == "1"):
            return await self._once_more(call, response)
        self.speech.say(response, "voice.wrong_key", call.language)
        return await self._once_more(call, response, repeat=False)

    async def _once_more(
        self, call: Call, response: VoiceResponse, tries: int = 0, repeat: bool = True
    ) -> VoiceResponse:
        """The same question again; with `repeat` and after a key, the answer too."""
        known = Answer((), call.language, False)
        if call.message:
            known = await self._answer(call, call.message)
        if repeat and not tries:
            self._read(response, call, known)
        keys = call.keys if call.keys == "answer" else ""
        return self._listen(
            response,
            call,
            call.language,
            call.step + 1,
            tries,
            call.message,
            keys,
            known.options,
            known.invites,
        )

    async def _by_sms(self, call: Call, response: VoiceResponse) -> VoiceResponse:
        conversation = await self._conversation(call)
        key = f"{call.sid}:{call.step}"
        sent = await self.database.write(self.switchboard.by_sms, conversation, call.message, key)
        self.speech.say(response, "voice.sms_sent" if sent else "voice.wrong_key", call.language)
        return self._listen(response, call, call.language, call.step + 1, 0, call.message, "answer")

    async def _bring(self, call: Call, text: str, language: str, choice: str = "") -> VoiceResponse:
        """Write down what she said or chose, and wait for the answer."""
        accepted = await self.inbox.accept(
            InboundMessage(
                channel=self.name,
                external_id=f"{call.sid}:{call.step}",
                address=call.address,
                text=text,
                choice=choice,
                language_hint=language,
                thread={"call": call.sid},
            )
        )
        return await self._hear(call, accepted.message_id, language, 0)

    async def wait(self, call: Call) -> VoiceResponse:
        """Look again whether the answer is here; she can press a key meanwhile."""
        return await self._hear(call, call.message, call.language, call.tries + 1)

    async def _hear(self, call: Call, message: int, language: str, waits: int) -> VoiceResponse:
        response = VoiceResponse()
        if await self.inbox.turn(message, PATIENCE):
            known = await self._answer(call, message)
            return self._respond(response, call, message, known)
        if waits >= MOST_WAITS:
            return self._to_person(response, call)
        action = call.url("heard", l=language, n=call.step + 1, t=0, m=message, k="wait")
        gather = listen(response, None, self.url + action, timeout=1, action_on_empty_result=False)
        self.speech.say(gather, "voice.moment", language)
        response.redirect(self.url + call.url("wait", l=language, m=message, t=waits))
        return response

    async def _answer(self, call: Call, message: int) -> Answer:
        """What is to be said to a message; that it was said is noted."""
        known = await self.database.read(log_of_calls.answer, call.address, message)
        if known.replies:
            await self.inbox.note(
                *(Receipt(self.name, "delivered", key=str(reply.id)) for reply in known.replies)
            )
        return known

    def _read(self, response: VoiceResponse, call: Call, known: Answer) -> None:
        """Speak the replies; a key interrupts them."""
        by_key = (sound := self.sounds.languages.get(known.language)) and sound.keys_first
        spoken = [
            reply
            for reply in known.replies
            if reply.language != "mul" and reply.text_id != "menu.topics"
        ]
        if not spoken:
            return
        keys = _keys(known) or ("topics" if by_key else "")
        action = call.url("heard", l=known.language, n=call.step + 1, t=0, k=keys)
        gather = listen(response, None, self.url + action, timeout=1, action_on_empty_result=False)
        for number, reply in enumerate(spoken):
            if number:
                gather.pause(length=1)
            self.speech.read(gather, reply.text_id, reply.language, reply.body)

    def _respond(
        self, response: VoiceResponse, call: Call, message: int, known: Answer
    ) -> VoiceResponse:
        """Speak an answer and go on: to a person, to the menu, to the next question."""
        here = replace(
            call, message=message, language=known.language or call.language, tries=0, keys=""
        )
        self._read(response, here, known)
        if known.person:
            if not known.replies:
                self.speech.say(response, "voice.handoff.waiting", known.language)
            return self._to_person(response, here)
        if not known.language or any(reply.language == "mul" for reply in known.replies):
            return self._menu(response, here, tries=0)
        if any(reply.text_id in ENDS for reply in known.replies):
            response.hangup()
            return response
        return self._listen(
            response,
            here,
            known.language,
            call.step + 1,
            0,
            message,
            _keys(known),
            known.options,
            known.invites,
        )

    # -- a person -----------------------------------------------------------------------------

    def _to_person(
        self, response: VoiceResponse, call: Call, danger: bool = False
    ) -> VoiceResponse:
        if danger:
            self.speech.say(response, "voice.emergency", call.language)
        place = call.url("person", n=call.step + 1, t=0, m=0, k="", e=int(danger))
        response.redirect(self.url + place)
        return response

    async def _conversation(self, call: Call) -> int:
        return await self.database.write(open_conversation, self.name, call.address)

    # -- the end ------------------------------------------------------------------------------

    async def status(self, call: Call) -> VoiceResponse:
        """The call is over. Who did not hear her answer, or got no person, is called back."""
        if call.form.get("CallStatus") in OVER:
            lost = await self.database.write(log_of_calls.unheard, call.address, call.sid)
            reason = "the caller hung up before the answer came: call back"
            await self.inbox.note(
                *(Receipt(self.name, "failed", key=str(one), reason=reason) for one in lost)
            )
            known = await self.database.read(find_conversation, self.name, call.address)
            seconds = call.form.get("CallDuration", "")
            if known is not None:
                length = int(seconds) if seconds.isdigit() and len(seconds) < 6 else 0
                await self.database.write(self.switchboard.ended, known, call.sid, length)
        return VoiceResponse()

    async def fallback(self, call: Call) -> VoiceResponse:
        """Twilio could not use our last answer: say so without the database, and begin anew."""
        response = VoiceResponse()
        for language in dict.fromkeys(("ja", call.language or "en", "en")):
            self.speech.say(response, "voice.trouble", language)
        response.redirect(f"{self.url}/voice/call")
        return response

    # -- recorded prompts ---------------------------------------------------------------------

    async def prompt(self, request: Request) -> Response:
        """A recording that Twilio plays. Its words are published, so anybody may hear it."""
        language, file = request.path_params["language"], request.path_params["file"]
        path = self.speech.folder / language / file
        if language not in self.sounds.languages or not PROMPT.fullmatch(file):
            return Response(status_code=404)
        if not await asyncio.to_thread(path.is_file):
            return Response(status_code=404)
        return FileResponse(path, media_type="audio/wav")


def _begin(session: Session, address: str) -> str:
    """Open the caller's conversation, and return its language."""
    number = open_conversation(session, Voice.name, address)
    return session.get_one(Conversation, number).language


def _keys(known: Answer) -> str:
    """What the keys mean after an answer."""
    if known.options:
        return "choices"
    return "answer" if any(reply.text_id.startswith("faq/") for reply in known.replies) else ""
