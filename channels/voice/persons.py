"""Where a person takes over: counsellors are rung, recordings taken, workers called."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from babel import Locale
from sqlalchemy.orm import Session
from twilio.twiml.voice_response import Dial, VoiceResponse

from channels.context import ChannelContext
from channels.log import Conversation, open_conversation
from channels.message import Attachment, InboundMessage, RefusedError, clean
from channels.twilio_account import TwilioSettings
from channels.voice.call import CALL, CHANNEL, Call
from channels.voice.speech import Sound, Speech, listen
from channels.voice.switchboard import Leg, Placed, Switchboard

RING = 20
"""Seconds that a counsellor's telephone rings."""
MOST_RUNG = 6
RECORDING = 180
"""Seconds of a recording."""
TRANSCRIBED = "en"
"""The language of which Twilio writes recordings down."""
RING_WORKER = 40
"""Seconds that a worker's telephone rings."""
RECORDED = re.compile(r"RE[0-9a-f]{32}")


class Persons:
    """The steps of a call that lead to a person, or that a counsellor hears."""

    def __init__(
        self,
        context: ChannelContext,
        settings: TwilioSettings,
        switchboard: Switchboard,
        speech: Speech,
    ) -> None:
        self.inbox, self.database, self.texts = context.inbox, context.database, context.texts
        self.settings, self.switchboard, self.speech = settings, switchboard, speech
        self.url = context.settings.url

    def steps(self) -> dict[str, Callable[[Call], Awaitable[VoiceResponse]]]:
        """What Twilio may ask, by the last part of its path."""
        return {
            "person": self.person,
            "rung": self.rung,
            "whisper": self.whisper,
            "taken": self.taken,
            "leave": self.leave,
            "recorded": self.recorded,
            "recording": self.recorded,
            "transcript": self.transcript,
            "bridge": self.bridge,
            "bridged": self.bridged,
            "called": self.called,
        }

    async def person(self, call: Call) -> VoiceResponse:
        """Ring the counsellors while they are there; else take a recording."""
        response = VoiceResponse()
        placed = await self._hand_over(call, call.query.get("e") == "1")
        return await self._ring_next(response, call, placed, ())

    async def _ring_next(
        self, response: VoiceResponse, call: Call, placed: Placed, tried: tuple[int, ...]
    ) -> VoiceResponse:
        rung = None
        if placed.open and len(tried) < MOST_RUNG:
            rung = await self.database.write(
                self.switchboard.next_counsellor, placed.case_id, call.sid, tried
            )
        if rung is None:
            self.speech.say(response, "voice.nobody", call.language)
            return await self._record(response, call, placed)
        self.speech.say(response, "voice.next" if tried else "voice.connecting", call.language)
        listed = ".".join(map(str, (*tried, rung.staff_id)))
        dial: Dial = response.dial(
            action=self.url + call.url("rung", c=placed.case_id, i=listed),
            caller_id=self.settings.voice_number,
            timeout=RING,
            ring_tone="jp",
            answer_on_bridge=True,
        )
        place = f"/voice/whisper?c={placed.case_id}&s={rung.staff_id}&o={call.sid}"
        dial.number(rung.number, url=self.url + place)
        return response

    async def rung(self, call: Call) -> VoiceResponse:
        """A counsellor did not answer, or the talk is over."""
        response, case_id = VoiceResponse(), call.whole("c")
        if await self.database.read(self.switchboard.talked, case_id, call.sid):
            self.speech.say(response, "voice.bye", call.language)
            response.hangup()
            return response
        tried = tuple(int(one) for one in call.query.get("i", "").split(".") if one.isdigit())
        placed = await self._hand_over(call)
        return await self._ring_next(response, call, placed, tried)

    async def whisper(self, call: Call) -> VoiceResponse:
        """To the counsellor, before she is connected. A mailbox presses no key."""
        case_id, staff_id = call.whole("c"), call.whole("s")
        leg = await self.database.read(self.switchboard.leg, case_id, staff_id)
        place = f"/voice/taken?c={case_id}&s={staff_id}&o={call.query.get('o', '')}"
        return self._offer("voice.whisper", leg, place)

    def _offer(self, text_id: str, leg: Leg | None, place: str) -> VoiceResponse:
        response = VoiceResponse()
        if leg is not None:
            spoken = [code for code in leg.speaks if self._sound(code)]
            language = "ja" if "ja" in leg.speaks or not spoken else spoken[0]
            params = {"reference": " ".join(leg.reference.replace("-", ","))}
            if text_id == "voice.whisper":
                params["language"] = self._name(leg.language, language)
            gather = listen(
                response, None, self.url + place, timeout=8, action_on_empty_result=False
            )
            for _ in range(2):
                self.speech.say(gather, text_id, language, **params)
                gather.pause(length=1)
        response.hangup()
        return response

    def _sound(self, code: str) -> Sound | None:
        sound = self.speech.sounds.languages.get(code)
        return sound if sound is not None and sound.say else None

    def _name(self, code: str, language: str) -> str:
        """A language's name in another one."""
        known = self.texts().languages
        if code not in known:
            return "?"
        locale = Locale.parse(known[code].babel)
        return locale.get_language_name(known[language].babel) or known[code].english

    async def taken(self, call: Call) -> VoiceResponse:
        """The counsellor pressed 1: they are connected. Another key: the next one is rung."""
        response = VoiceResponse()
        caller = call.query.get("o", "")
        if call.digits == "1" and CALL.fullmatch(caller):
            await self.database.write(
                self.switchboard.taken, call.whole("c"), call.whole("s"), caller
            )
        else:
            response.hangup()
        return response

    # -- recordings ---------------------------------------------------------------------------

    async def leave(self, call: Call) -> VoiceResponse:
        """She wants to record her own question; nobody is rung."""
        return await self._record(VoiceResponse(), call, await self._hand_over(call))

    async def _record(self, response: VoiceResponse, call: Call, placed: Placed) -> VoiceResponse:
        """Promise a call back and take a recording. The promise holds even if she hangs up now."""
        conversation = await self._conversation(call)
        await self.database.write(self.switchboard.call_back, placed.case_id, call.sid)
        if call.number:
            self.speech.say(response, "voice.back", call.language, when=placed.due_at)
        else:
            self.speech.say(response, "voice.hidden", call.language)
        self.speech.say(response, "voice.voicemail", call.language)
        more: dict[str, Any] = {}
        if call.language == TRANSCRIBED:
            place = call.url("transcript", w=conversation)
            more = {"transcribe": True, "transcribe_callback": self.url + place}
        response.record(
            action=self.url + call.url("recorded", w=conversation),
            max_length=RECORDING,
            timeout=10,
            finish_on_key="#",
            play_beep=True,
            recording_status_callback=self.url + call.url("recording", w=conversation),
            recording_status_callback_event="completed",
            **more,
        )
        self.speech.say(response, "voice.bye", call.language)  # when nothing was said
        return response

    async def recorded(self, call: Call) -> VoiceResponse:
        """She left a recording. Twilio tells twice: to the call, and when the file is ready."""
        sid, address = self._recording(call), await self._address(call)
        seconds = call.form.get("RecordingDuration", "")
        if address:
            await self.inbox.accept(
                InboundMessage(
                    channel=CHANNEL,
                    external_id=sid,
                    address=address,
                    text="",
                    kind="voicemail",
                    language_hint=call.language,
                    attachments=(Attachment(f"{sid[:8]}.mp3", "audio/mpeg", source=sid),),
                )
            )
            length = int(seconds) if seconds.isdigit() and len(seconds) < 6 else 0
            await self.database.write(self.switchboard.recorded, call.whole("w"), call.sid, length)
        response = VoiceResponse()
        self.speech.say(response, "voice.kept", call.language)
        self.speech.say(response, "voice.bye", call.language)
        response.hangup()
        return response

    async def transcript(self, call: Call) -> VoiceResponse:
        """Twilio has written a recording down; danger in it is looked for as in any words."""
        sid, address = self._recording(call), await self._address(call)
        text = clean(call.form.get("TranscriptionText", "")).strip()
        if address and text and call.form.get("TranscriptionStatus") == "completed":
            await self.inbox.accept(
                InboundMessage(
                    channel=CHANNEL,
                    external_id=f"{sid}:words",
                    address=address,
                    text=text,
                    language_hint=call.language,
                    edits=sid,
                )
            )
        return VoiceResponse()

    def _recording(self, call: Call) -> str:
        sid = call.form.get("RecordingSid", "")
        if not RECORDED.fullmatch(sid):
            raise RefusedError("no RecordingSid")
        return sid

    async def _address(self, call: Call) -> str:
        """Whose recording it is; "" once she has been forgotten."""
        return await self.database.read(_address, call.whole("w"))

    # -- a counsellor calls a worker ----------------------------------------------------------

    async def bridge(self, call: Call) -> VoiceResponse:
        """The counsellor has picked up: is it she, or her mailbox?"""
        case_id, staff_id, way = call.whole("c"), call.whole("s"), call.whole("w")
        leg = await self.database.read(self.switchboard.outward, case_id, staff_id, way)
        place = f"/voice/bridged?c={case_id}&s={staff_id}&w={way}"
        return self._offer("voice.bridge", leg, place)

    async def bridged(self, call: Call) -> VoiceResponse:
        """She pressed 1: the worker is rung, from the desk's number."""
        case_id, staff_id, way = call.whole("c"), call.whole("s"), call.whole("w")
        leg = await self.database.read(self.switchboard.outward, case_id, staff_id, way)
        response = VoiceResponse()
        if call.digits == "1" and leg is not None:
            await self.database.write(self.switchboard.calling, case_id, staff_id, call.sid)
            dial: Dial = response.dial(
                action=f"{self.url}/voice/called?c={case_id}&s={staff_id}",
                caller_id=self.settings.voice_number,
                timeout=RING_WORKER,
                ring_tone="jp",
                answer_on_bridge=True,
            )
            dial.number(leg.number)
        else:
            response.hangup()
        return response

    async def called(self, call: Call) -> VoiceResponse:
        """The talk is over, or the worker did not answer."""
        seconds = call.form.get("DialCallDuration", "")
        length = int(seconds) if seconds.isdigit() and len(seconds) < 6 else 0
        if call.form.get("DialCallStatus") != "completed":
            length = 0
        await self.database.write(
            self.switchboard.called, call.whole("c"), call.whole("s"), call.sid, length
        )
        response = VoiceResponse()
        response.hangup()
        return response

    # -- parts --------------------------------------------------------------------------------

    async def _conversation(self, call: Call) -> int:
        return await self.database.write(open_conversation, CHANNEL, call.address)

    async def _hand_over(self, call: Call, danger: bool = False) -> Placed:
        conversation = await self._conversation(call)
        return await self.database.write(self.switchboard.hand_over, conversation, call.sid, danger)


def _address(session: Session, conversation_id: int) -> str:
    conversation = session.get(Conversation, conversation_id)
    if conversation is None or conversation.channel != CHANNEL:
        return ""
    return conversation.address or ""
