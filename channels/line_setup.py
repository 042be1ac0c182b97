"""What is set up at LINE: the web hook, the menus, and how much of the month's quota is left.

Source: LINE's Messaging API reference (web hook settings, message quota, rich menus and their
aliases). The switch “Use webhook” and the account's automatic answers have no API: the remedies say
where they are.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from linebot.v3.messaging import (
    ApiException,
    AsyncMessagingApiBlob,
    CreateRichMenuAliasRequest,
    SetWebhookEndpointRequest,
    TestWebhookEndpointRequest,
    UpdateRichMenuAliasRequest,
)
from prometheus_client import Gauge

from channels import line_menu
from channels.message import Finding, SendError
from config.settings import Settings
from config.texts import Texts

log = structlog.get_logger(__name__)

HOOK = "/line/webhook"
LOW = 0.8
"""The part of the month's messages from which the operator is warned."""

USED = Gauge("desk_line_quota_used", "LINE messages of this month that count (push)")
ALLOWED = Gauge("desk_line_quota_limit", "LINE messages that the plan allows a month; 0: no limit")

LATE = "Wait a few minutes and check again; LINE may be down."
CONSOLE = "In the LINE Developers console, tab “Messaging API”"

Call = Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]]
"""Asks LINE something; raises `ApiException` or `SendError`."""


class Account:
    """The account at LINE as its operator sees it."""

    def __init__(self, call: Call, settings: Settings, texts: Callable[[], Texts]) -> None:
        self._call, self.settings, self.texts = call, settings, texts

    async def menus(self) -> dict[str, str]:
        """Language → id of its menu, for those that are set up."""
        listed = await self._call(lambda api: api.get_rich_menu_alias_list())
        found = {one.rich_menu_alias_id: one.rich_menu_id for one in listed.aliases}
        aliases = ((code, line_menu.alias(code)) for code in self.texts().languages)
        return {code: found[alias] for code, alias in aliases if alias in found}

    async def quota(self) -> tuple[int, int]:
        """This month: messages used, and allowed (0: no limit)."""
        plan = await self._call(lambda api: api.get_message_quota())
        use = await self._call(lambda api: api.get_message_quota_consumption())
        used, allowed = int(use.total_usage), int(plan.value or 0)
        USED.set(used)
        ALLOWED.set(allowed)
        if allowed and used >= LOW * allowed:
            log.warning("line_quota_low", used=used, allowed=allowed)
        return used, allowed

    async def check(self) -> list[Finding]:
        """The address, the token, the web hook, the quota and the menus, as LINE sees them."""
        account = await self._finding("account", self._check_account)
        if not account[0].ok:
            return [self._check_address(), *account]
        return [
            self._check_address(),
            *account,
            *await self._finding("web hook", self._check_hook),
            *await self._finding("messages of this month", self._check_quota),
            *await self._finding("menus", self._check_menus),
        ]

    async def _finding(
        self, what: str, look: Callable[[], Awaitable[list[Finding]]]
    ) -> list[Finding]:
        """What a look finds, or that LINE did not let us look."""
        try:
            return await look()
        except ApiException as error:
            if error.status in {401, 403}:
                remedy = (
                    f"{CONSOLE}, issue a long-lived channel access token and set "
                    "BOT_LINE_ACCESS_TOKEN to it."
                )
            else:
                remedy = LATE
            return [Finding(what, False, f"LINE answers {error.status}", remedy)]
        except SendError as error:
            return [Finding(what, False, str(error), LATE)]

    def _check_address(self) -> Finding:
        return Finding(
            "address of the desk",
            self.settings.https,
            self.settings.url,
            ""
            if self.settings.https
            else "Set BOT_PUBLIC_URL to an https:// address: LINE calls nothing else.",
        )

    async def basic_id(self) -> str:
        """The account's own id (@…), which links to it need."""
        return str((await self._call(lambda api: api.get_bot_info())).basic_id or "")

    async def _check_account(self) -> list[Finding]:
        bot = await self._call(lambda api: api.get_bot_info())
        found = [Finding("account", True, f"{bot.display_name} ({bot.basic_id})")]
        if bot.chat_mode == "chat":
            found.append(
                Finding(
                    "answers by hand",
                    False,
                    "chat is on, so words may be written that the desk never sees",
                    "In the LINE Official Account Manager, under “Response settings”, turn chat "
                    "off.",
                )
            )
        return found

    async def _check_hook(self) -> list[Finding]:
        wanted = self.settings.url + HOOK
        run = "Run `bot channels setup line`."
        try:
            hook = await self._call(lambda api: api.get_webhook_endpoint())
        except ApiException as error:
            if error.status == 404:
                return [Finding("web hook", False, "not set", run)]
            raise
        if hook.endpoint != wanted:
            return [Finding("web hook", False, f"it is {hook.endpoint}, not {wanted}", run)]
        if not hook.active:
            remedy = f"{CONSOLE}, turn on “Use webhook” (and “Webhook redelivery”)."
            return [Finding("web hook", False, "switched off at LINE", remedy)]
        trial = TestWebhookEndpointRequest(endpoint=wanted)
        tried = await self._call(lambda api: api.test_webhook_endpoint(trial))
        if tried.success:
            return [Finding("web hook", True, wanted)]
        if tried.status_code == 403:
            remedy = (
                "In the LINE Developers console, tab “Basic settings”, copy the channel secret to "
                "BOT_LINE_CHANNEL_SECRET, and start the desk again."
            )
        else:
            remedy = (
                "Start the desk, and see that your TLS proxy passes on requests to "
                f"{wanted} and has a certificate of a well-known issuer."
            )
        reason = f"{tried.status_code} {tried.reason}"
        return [Finding("web hook", False, f"LINE cannot reach it: {reason}", remedy)]

    async def _check_quota(self) -> list[Finding]:
        used, allowed = await self.quota()
        well = not allowed or used < LOW * allowed
        return [
            Finding(
                "messages of this month",
                well,
                f"{used} of {allowed} used" if allowed else f"{used} used, no limit",
                ""
                if well
                else "Answers within a minute cost nothing; later ones wait when the limit is "
                "reached. In the LINE Official Account Manager choose a larger plan, or additional "
                "messages.",
            )
        ]

    async def _check_menus(self) -> list[Finding]:
        found = await self.menus()
        missing = [code for code in self.texts().languages if code not in found]
        return [
            Finding(
                "menus",
                not missing,
                f"missing: {', '.join(missing)}" if missing else f"{len(found)} languages",
                "Run `bot channels setup line`." if missing else "",
            )
        ]

    async def setup(self) -> list[Finding]:
        """Set the web hook and the menus."""
        if not self.settings.https:
            return [self._check_address()]
        hook = await self._finding("web hook", self._set_hook)
        return [*hook, *await self._finding("menus", self._set_menus)]

    async def _set_hook(self) -> list[Finding]:
        wanted = SetWebhookEndpointRequest(endpoint=self.settings.url + HOOK)
        await self._call(lambda api: api.set_webhook_endpoint(wanted))
        return await self._check_hook()

    async def _set_menus(self) -> list[Finding]:
        """Make the menus that are new or have changed; remove those that nothing uses any more."""
        made = await asyncio.to_thread(line_menu.menus, self.texts())
        listed = await self._call(lambda api: api.get_rich_menu_list())
        ours = {
            one.rich_menu_id: one.name
            for one in listed.richmenus
            if (one.name or "").startswith(line_menu.NAME)
        }
        known = await self._call(lambda api: api.get_rich_menu_alias_list())
        aliases = {one.rich_menu_alias_id: one.rich_menu_id for one in known.aliases}
        used, fresh = [], 0
        for menu in made:
            number = aliases.get(menu.alias)
            # The alias is set last, so a menu that has it is whole.
            if number is None or ours.get(number) != menu.request.name:
                number = await self._make_menu(menu, menu.alias in aliases)
                fresh += 1
            used.append(number)
        await self._call(lambda api: api.set_default_rich_menu(used[0]))
        for old in ours.keys() - set(used):
            await self._remove_menu(old)
        detail = f"{fresh} made, {len(used) - fresh} unchanged"
        return [Finding("menus", True, detail)]

    async def _make_menu(self, menu: line_menu.Menu, replaces: bool) -> str:
        made = await self._call(lambda api: api.create_rich_menu(menu.request))
        number: str = made.rich_menu_id
        await self._call(
            lambda api: AsyncMessagingApiBlob(api.api_client).set_rich_menu_image(
                number,
                menu.image,
                _headers={"Content-Type": "image/png"},
            )
        )
        if replaces:
            change = UpdateRichMenuAliasRequest(rich_menu_id=number)
            await self._call(lambda api: api.update_rich_menu_alias(menu.alias, change))
        else:
            new = CreateRichMenuAliasRequest(rich_menu_alias_id=menu.alias, rich_menu_id=number)
            await self._call(lambda api: api.create_rich_menu_alias(new))
        return number

    async def _remove_menu(self, number: str) -> None:
        await self._call(lambda api: api.delete_rich_menu(number))
