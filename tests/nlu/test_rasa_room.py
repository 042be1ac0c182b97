"""Rasa in its own environment: installed, trained, served, killed, asked badly.

The environment is kept in `var/rasa-env` (or BOT_TEST_RASA_ENV) and installed on first use.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import pytest_asyncio
import yaml

from nlu.rasa_client import RasaClient, RasaUnavailable
from nlu.rasa_process import RasaProcess
from nlu.train import (
    RASA_PROJECT,
    Example,
    TrainingError,
    content_digest,
    from_rasa,
    model_path,
    newest_model,
    nlu_yaml,
    to_rasa,
    train,
)

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(os.environ.get("BOT_TEST_RASA_ENV", ROOT / "var" / "rasa-env"))

QUESTIONS = {
    ("faq/wage_unpaid", "en"): "my salary is not paid|boss no pay me|no salary two months|"
    "company did not pay my wage|pay is late again|they owe me salary",
    (
        "faq/wage_unpaid",
        "vi",
    ): "công ty không trả lương|chưa nhận được lương tháng này|cty no luong|"
    "bị nợ lương hai tháng|ông chủ không trả tiền lương|chậm lương",
    ("faq/wage_unpaid", "ja"): "給料が払われない|きゅうりょう もらえない|2か月給料なし|"
    "会社がお金をくれません|kyuryo moraemasen|賃金の未払い",
    ("faq/passport_taken", "en"): "they took my passport|company keeps my passport|boss holds my "
    "residence card|agent does not give back passport|my passport is with the company",
    ("faq/passport_taken", "vi"): "công ty giữ hộ chiếu|bị giữ thẻ ngoại kiều|ho chieu bi cong ty "
    "giu|nghiệp đoàn không trả hộ chiếu|muốn lấy lại hộ chiếu",
    ("faq/passport_taken", "ja"): "パスポートを取られた|会社がパスポートを返さない|在留カードを"
    "預けさせられた|パスポート かえして ほしい|社長がパスポートを持っている",
    (
        "faq/work_accident",
        "en",
    ): "i got injured at work|cut my hand in the factory|accident at work "
    "who pays|fell from ladder at work|boss says do not report the injury",
    ("faq/work_accident", "vi"): "bị tai nạn lao động|em bị đứt tay ở xưởng|ngã khi làm việc|"
    "tai nan o cong ty ai tra tien|bị thương khi đang làm",
    ("faq/work_accident", "ja"): "仕事でけがをした|労災になりますか|工場で指を切った|"
    "しごとちゅうに ころんだ|会社が労災を使わせない",
    ("greet", "en"): "hello|good morning|hi there|hey|good evening",
    ("greet", "vi"): "xin chào|chào anh|chao ban|alo|em chào chị",
    ("greet", "ja"): "こんにちは|おはようございます|はじめまして|こんばんは|どうも",
    ("greet", "ne"): "नमस्ते|namaste|नमस्कार|शुभ प्रभात|namaskar",
    ("", "vi"): "Công ty phải trả lương mỗi tháng.|Hộ chiếu của bạn là của bạn, công ty không được "
    "giữ.|Nếu bị tai nạn khi làm việc, bảo hiểm tai nạn lao động sẽ trả tiền chữa bệnh.",
}


def examples() -> list[Example]:
    return [
        (intent, code, text)
        for (intent, code), texts in QUESTIONS.items()
        for text in texts.split("|")
    ]


def proc(pid: int | None, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def _alive(pid: int) -> bool:
    try:
        return proc(pid, "stat").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


# --- without Rasa ---


def test_the_digest_follows_the_content_and_not_the_order() -> None:
    rows = examples()
    assert content_digest(rows) == content_digest(reversed(rows))
    assert content_digest(rows) == content_digest([*rows, rows[0]])
    assert content_digest(rows) != content_digest(rows[1:])
    assert content_digest(rows) != content_digest([(i, "en", t) for i, _, t in rows])


def test_intents_survive_the_way_through_rasa() -> None:
    for intent in ("faq/wage_unpaid", "greet", "out_of_scope"):
        assert from_rasa(to_rasa(intent)) == intent
        assert "/" not in to_rasa(intent)


def test_training_data_is_plain_text_for_rasa() -> None:
    rows = [
        ("faq/x", "en", "what is [this](that)"),
        ("faq/x", "en", "/restart"),
        ("greet", "vi", "ê: #1"),
    ]
    data = yaml.safe_load(nlu_yaml(rows))
    texts = [example["text"] for block in data["nlu"] for example in block["examples"]]
    assert not any(mark in text for text in texts for mark in "[]{}")
    assert data["nlu"][1]["examples"][0]["metadata"] == {"language": "vi"}


async def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        await train([("greet", "en", "hello")], tmp_path)
    assert newest_model(tmp_path) is None


async def test_without_uv_or_network_it_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nlu.train.uv.find_uv_bin", lambda: "/nowhere/uv")
    async with RasaProcess(tmp_path, examples) as rasa:
        await until(lambda: "could not be installed" in rasa.detail, 5)
        assert rasa.state == "down"
        assert "could not be installed" in rasa.detail
        assert "\n" not in rasa.detail
        assert rasa.client is None
        assert not await rasa.wait_ready(0.01)


async def test_rasa_elsewhere_is_only_asked(tmp_path: Path) -> None:
    async with RasaProcess(tmp_path, url="http://127.0.0.1:1", token="x") as rasa:
        assert not await rasa.wait_ready(0.3)
        assert rasa.state == "down"
        assert rasa.client is not None
        with pytest.raises(RasaUnavailable):
            await rasa.client.parse(["secret words"])


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"no json"),
        (200, b"{}"),
        (200, b"[]"),
        (200, b"[null]"),
        (200, b'[{"intent_ranking": [{"name": "x"}]}]'),
        (200, b'[{"intent_ranking": [], "language": null}]'),
        (401, b"{}"),
        (500, b""),
        (503, b"{}"),
    ],
)
async def test_a_strange_answer_is_no_answer(status: int, body: bytes) -> None:
    client = RasaClient("http://rasa.test")
    client._http = httpx.AsyncClient(
        base_url="http://rasa.test",
        transport=httpx.MockTransport(lambda _: httpx.Response(status, content=body)),
    )
    async with client:
        with pytest.raises(RasaUnavailable) as caught:
            await client.parse(["my secret words"])
        assert "secret" not in str(caught.value)
        assert not await client.ready() or status == 200


async def test_giant_and_broken_texts_are_cut_and_batched() -> None:
    seen: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content)["texts"])
        item = {
            "intent_ranking": [{"name": "faq.x", "confidence": 1}],
            "language": {"code": "vi", "confidence": 0.5},
        }
        return httpx.Response(200, json=[item] * len(seen[-1]))

    client = RasaClient("http://rasa.test")
    client._http = httpx.AsyncClient(
        base_url="http://rasa.test", transport=httpx.MockTransport(answer)
    )
    async with client:
        results = await client.parse(["x" * 5_000_000, "\ud800a", *["b"] * 70])
        assert await client.parse([]) == []
        with pytest.raises(ValueError, match="each text"):
            await client.parse(["a"], [])
    assert len(results) == 72
    assert results[0].intents == (("faq/x", 1.0),)
    assert [len(texts) for texts in seen] == [32, 32, 8]
    assert len(seen[0][0]) == 1000
    assert seen[0][1] == "a"


class StandIn:
    """A child that answers after a while, and not at all once it is ended."""

    def __init__(self, model: Path) -> None:
        self.model, self.ended = model, False
        self.process = SimpleNamespace(returncode=None, pid=id(self), wait=asyncio.Event().wait)
        self.client = RasaClient("http://rasa.test")
        self.client._http = httpx.AsyncClient(
            base_url="http://rasa.test", transport=httpx.MockTransport(self.answer)
        )

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"model": self.model.name})
        await asyncio.sleep(0.5)
        if self.ended:
            raise httpx.ReadError("ended")
        item = {
            "intent_ranking": [{"name": f"faq.{self.model.stem}", "confidence": 1}],
            "language": {"code": "vi", "confidence": 0.5},
        }
        return httpx.Response(200, json=[item] * len(json.loads(request.content)["texts"]))

    async def until_ready(self) -> None:
        await asyncio.sleep(0.1)

    async def end(self) -> None:
        self.ended = True
        await self.client.close()


async def test_a_replaced_rasa_answers_what_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[StandIn] = []

    async def launch(_python: Path, model: Path, _folder: Path) -> StandIn:
        children.append(StandIn(model))
        return children[-1]

    async def install(*_: object) -> Path:
        return tmp_path

    async def made(_self: RasaProcess, *, quietly: bool = False) -> Path:
        return tmp_path / f"model{len(children)}.tar"

    monkeypatch.setattr("nlu.rasa_process._Child.launch", launch)
    monkeypatch.setattr("nlu.rasa_process.install", install)
    monkeypatch.setattr(RasaProcess, "_model", made)
    async with RasaProcess(tmp_path, examples) as rasa:
        assert await rasa.wait_ready(5)
        assert rasa.client is not None
        under_way = asyncio.create_task(rasa.client.parse(["a"] * 70))  # three requests, 1.5 s
        await asyncio.sleep(0)
        rasa.renew()
        await until(lambda: len(children) == 2 and rasa.client is children[1].client, 5)
        assert not children[0].ended
        (new,) = await rasa.client.parse(["b"])
        assert new.intents[0][0] == "faq/model1"
        old = await under_way
        assert {result.intents[0][0] for result in old} == {"faq/model0"}
        await until(lambda: children[0].ended, 5)
        assert rasa.state == "ready"


async def test_a_rasa_that_hangs_is_not_waited_for_for_ever() -> None:
    child = StandIn(Path("m"))
    asked = asyncio.create_task(child.client.parse(["a"]))
    await asyncio.sleep(0)
    assert not await child.client.at_rest(0.05)
    await asked
    assert await child.client.at_rest(0.05)


async def test_a_new_model_that_cannot_be_made_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[StandIn] = []

    async def launch(_python: Path, model: Path, _folder: Path) -> StandIn:
        children.append(StandIn(model))
        return children[-1]

    async def install(*_: object) -> Path:
        return tmp_path

    async def made(_self: RasaProcess, *, quietly: bool = False) -> Path:
        if children:
            raise TrainingError("the new model was refused")
        return tmp_path / "good.tar"

    monkeypatch.setattr("nlu.rasa_process._Child.launch", launch)
    monkeypatch.setattr("nlu.rasa_process.install", install)
    monkeypatch.setattr(RasaProcess, "_model", made)
    async with RasaProcess(tmp_path, examples) as rasa:
        assert await rasa.wait_ready(5)
        rasa.renew()
        await until(lambda: "refused" in rasa.detail, 5)
        assert rasa.state == "ready"
        assert rasa.client is children[0].client
        assert not children[0].ended


# --- with Rasa ---


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rasa(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RasaProcess]:
    folder = tmp_path_factory.mktemp("rasa")
    # What another encoder left behind: nothing below would be understood with it.
    (folder / "models").mkdir()
    texts = [text for _, _, text in examples()]
    strange = np.random.default_rng(0).normal(size=(len(texts), 384)).astype(np.float32)
    np.savez(folder / "models" / "vectors.npz", encoder="another", texts=texts, vectors=strange)
    async with RasaProcess(folder, examples, environment=ENVIRONMENT) as process:
        assert await process.wait_ready(600), process.detail
        yield process


served = [pytest.mark.rasa, pytest.mark.asyncio(loop_scope="module")]


def _marked(function: object) -> object:
    for mark in served:
        function = mark(function)  # type: ignore[operator]
    return function


@_marked
@pytest.mark.parametrize(
    ("text", "intent", "code"),
    [
        ("my boss did not pay salary", "faq/wage_unpaid", "en"),
        ("company took passport", "faq/passport_taken", "en"),
        ("cong ty khong tra luong", "faq/wage_unpaid", "vi"),
        ("bi tai nan o xuong", "faq/work_accident", "vi"),
        ("パスポートを返してくれない", "faq/passport_taken", "ja"),
        ("hello", "greet", "en"),
        ("नमस्ते", "greet", "ne"),
        ("नमस्ते 🙏!!", "greet", "ne"),
        ("no me pagan el salario", "faq/wage_unpaid", None),
        ("在工厂受伤了", "faq/work_accident", None),
        ("पासपोर्ट कम्पनीले राखेको छ", "faq/passport_taken", "ne"),
    ],
)
async def test_it_understands(rasa: RasaProcess, text: str, intent: str, code: str | None) -> None:
    assert rasa.client is not None
    (result,) = await rasa.client.parse([text])
    assert result.intents[0][0] == intent
    assert 0 < result.intents[0][1] <= 1
    assert list(result.intents) == sorted(result.intents, key=lambda item: -item[1])
    assert code is None or result.language == code


@_marked
async def test_a_batch_answers_as_single_messages_do(rasa: RasaProcess) -> None:
    assert rasa.client is not None
    texts = [text for _, _, text in examples()] + ["", "  ", "?!", "/greet", '/greet{"x": "1"}']
    together = await rasa.client.parse(texts)
    for text, result in list(zip(texts, together, strict=True))[::6]:
        (alone,) = await rasa.client.parse([text])
        if text.strip():
            assert alone.intents[0][0] == result.intents[0][0]
            assert alone.intents[0][1] == pytest.approx(result.intents[0][1], abs=0.01)
    by_text = dict(zip(texts, together, strict=True))
    assert by_text[""].intents == ()
    assert by_text[""].language == "und"
    assert by_text['/greet{"x": "1"}'].intents[0][1] < 1


BAD_REQUESTS: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"null", 400),
    (b"[]", 400),
    (b"{}", 400),
    (b'{"texts": null}', 400),
    (b'{"texts": "salary"}', 400),
    (b'{"texts": [null]}', 400),
    (b'{"texts": [1]}', 400),
    (b'{"texts": [["salary"]]}', 400),
    (b'{"texts": ["a"], "languages": []}', 400),
    (b'{"texts": ["a"], "languages": [7]}', 400),
    (b'{"texts": ["a"], "languages": "en"}', 400),
    (json.dumps({"texts": ["a"] * 65}).encode(), 400),
    (b'{"texts": ["' + b"a" * 2_000_000 + b'"]}', 413),
    (b'{"texts": ["\xff\xfe"]}', 400),
    (b'{"texts": []}', 200),
    (b'{"texts": ["\\ud800 salary"]}', 200),
    (b'{"texts": ["\\u0000", "/", "/greet{", "\\u202e"]}', 200),
    (b'{"texts": ["a"], "languages": ["klingon"]}', 200),
    (b'{"texts": ["a"], "languages": null}', 200),
    (b'{"texts": ["' + b"a" * 900_000 + b'"]}', 200),
]


@_marked
@pytest.mark.parametrize(("body", "status"), BAD_REQUESTS)
async def test_bad_input_is_refused_kindly(rasa: RasaProcess, body: bytes, status: int) -> None:
    assert rasa.client is not None
    response = await rasa.client._http.post("/webhooks/understand/batch", content=body)
    assert response.status_code == status
    assert "Traceback" not in response.text


@_marked
async def test_strangers_are_refused(rasa: RasaProcess) -> None:
    assert rasa.client is not None
    async with httpx.AsyncClient(base_url=str(rasa.client._http.base_url)) as stranger:
        for path in ("/webhooks/understand/batch", "/model/parse"):
            assert (await stranger.post(path, json={"texts": ["a"]})).status_code == 401
        assert (await stranger.get("/webhooks/understand/model")).status_code == 401
        assert (await stranger.put("/model", json={"model_file": "/etc/passwd"})).status_code == 401
        wrong = {"authorization": "Bearer wrong"}
        assert (await stranger.get("/webhooks/understand/model", headers=wrong)).status_code == 401
    token = rasa.client._http.headers["authorization"].removeprefix("Bearer ")
    assert token not in proc(rasa.pid, "cmdline")


@_marked
async def test_no_word_of_a_message_is_logged(rasa: RasaProcess) -> None:
    assert rasa.client is not None
    await rasa.client.parse(["my secret name is Zzyzx Quuxington"])
    await rasa.client._http.post("/webhooks/understand/batch", content=b'{"texts": "Zzyzx')
    logs = [path.read_text() for path in (rasa._data_dir / "logs").iterdir()]
    assert not any("Zzyzx" in log or "Quux" in log for log in logs)


@_marked
async def test_the_same_content_is_not_trained_again(rasa: RasaProcess) -> None:
    target = model_path(rasa._data_dir, content_digest(examples()))
    before = target.stat().st_ino
    lines: list[str] = []
    assert await train(examples(), rasa._data_dir, lines.append, environment=ENVIRONMENT) == target
    assert lines == []
    assert target.stat().st_ino == before


@_marked
async def test_a_bad_model_never_takes_the_place_of_a_good_one(rasa: RasaProcess) -> None:
    # the same few words under many labels: nothing can be learned from them
    senseless = [(f"faq/t{i % 12}", "en", f"word {i // 12}") for i in range(60)]
    with pytest.raises(TrainingError, match="refused"):
        await train(senseless, rasa._data_dir, environment=ENVIRONMENT)
    models = rasa._data_dir / "models"
    assert [path.name for path in models.glob("*.tar.gz")] == [
        model_path(rasa._data_dir, content_digest(examples())).name
    ]
    assert not list(models.glob("training-*"))


@_marked
async def test_it_comes_back_when_it_is_killed(rasa: RasaProcess) -> None:
    killed = rasa.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    await until(lambda: rasa.state != "ready", 5)
    assert rasa.client is None
    assert await rasa.wait_ready(60)
    assert rasa.pid != killed
    assert rasa.client is not None
    assert (await rasa.client.parse(["hello"]))[0].intents[0][0] == "greet"


PARENT = """
import asyncio, sys, structlog
from pathlib import Path
from nlu.rasa_process import RasaProcess

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    rasa = RasaProcess(Path(sys.argv[1]), lambda: [], environment=Path(sys.argv[2]))
    await rasa.start()
    while rasa.pid is None:
        await asyncio.sleep(0.05)
    print(rasa.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@_marked
async def test_it_ends_with_the_program_even_after_kill_9(rasa: RasaProcess) -> None:
    # no examples: the program goes on with the newest model that it finds
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(rasa._data_dir), str(ENVIRONMENT)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), 60))
    assert _alive(child)
    parent.kill()
    await parent.wait()
    await until(lambda: not _alive(child), 10)


@_marked
async def test_stock_rasa_tools_accept_the_data(rasa: RasaProcess, tmp_path: Path) -> None:
    (tmp_path / "nlu.yml").write_text(nlu_yaml(sorted(examples())), encoding="utf-8")
    (tmp_path / "domain.yml").write_text(
        yaml.safe_dump({"version": "3.1", "intents": sorted({to_rasa(e[0]) for e in examples()})})
    )
    check = await asyncio.create_subprocess_exec(
        *(str(ENVIRONMENT / "bin" / "python"), str(RASA_PROJECT / "launch.py")),
        *("data", "validate", "--data", "nlu.yml", "--domain", "domain.yml"),
        *("--config", str(RASA_PROJECT / "config.yml")),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(check.communicate(), 120)
    assert check.returncode == 0, output.decode()[-2000:]


@_marked
async def test_a_new_model_takes_over_while_messages_flow(
    rasa: RasaProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message falls back to the simpler understanding, neither before nor after the change."""
    before = rasa.pid
    more = [*examples(), ("greet", "en", "good day to you all"), ("greet", "en", "hello friends")]
    monkeypatch.setattr(rasa, "_examples", lambda: more)
    answered = {"old": 0, "new": 0}
    stop = asyncio.Event()

    async def writer() -> None:
        while not stop.is_set():
            client = rasa.client
            assert client is not None
            side = "old" if rasa.pid == before else "new"
            (result,) = await client.parse(["my boss did not pay salary"])
            assert result.intents[0][0] == "faq/wage_unpaid"
            answered[side] += 1

    writers = [asyncio.create_task(writer()) for _ in range(4)]
    rasa.renew()
    await until(lambda: answered["new"] > 40 or any(task.done() for task in writers), 300)
    stop.set()
    await asyncio.gather(*writers)  # none of them was refused an answer
    assert answered["old"] > 0
    assert rasa.pid != before
    assert rasa.state == "ready"
