"""Events are signed, delivered in order, and retried until they are accepted."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from receiver import SECRET, Receiver
from small_photos import write_photo
from watched_folders import lines_of, watch_once

from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.watch import Webhook
from vqlab.watch import webhook as webhook_module
from vqlab.watch.store import Store


def watch(model: Model, folder: Path, url: str) -> None:
    watch_once(model, folder / "in", folder / "out", webhook=Webhook.of(url, SECRET))


def test_each_part_is_delivered_with_its_line_in_order(
    model: Model, tmp_path: Path, receiver: Receiver
) -> None:
    """An alarm follows: the scores of all three parts exceed those of the model."""
    for seed in range(3):
        write_photo(tmp_path / f"in/{seed}.png", seed)
    watch(model, tmp_path, receiver.url)
    ids, bodies = zip(*receiver.events, strict=True)
    assert [body["type"] for body in bodies] == ["part.judged"] * 3 + ["drift.alarm"]
    assert len(set(ids)) == 4
    assert [body["data"] for body in bodies[:3]] == lines_of(tmp_path / "out")
    assert bodies[3]["data"]["part"] == 3 and bodies[3]["data"]["streams"] == ["score"]


def test_events_are_kept_for_a_receiver_across_restarts(
    model: Model, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_module, "delay_after", lambda failures: 0.0)
    write_photo(tmp_path / "in/0.png", 0)
    watch(model, tmp_path, "http://127.0.0.1:1/closed")
    write_photo(tmp_path / "in/1.png", 1)
    receiver.failures = 1
    watch(model, tmp_path, receiver.url)
    while len(receiver.events) < 2:
        watch(model, tmp_path, receiver.url)
    assert receiver.refused == 1
    assert {body["data"]["part"] for _, body in receiver.events} == {1, 2}
    store = Store(tmp_path / "out", tmp_path / "in")
    assert store.undelivered() == (0, "")
    store.close()


def test_event_is_kept_when_the_secret_is_wrong(
    model: Model, tmp_path: Path, receiver: Receiver
) -> None:
    write_photo(tmp_path / "in/0.png", 0)
    hook = Webhook.of(receiver.url, "another secret")
    watch_once(model, tmp_path / "in", tmp_path / "out", webhook=hook)
    store = Store(tmp_path / "out", tmp_path / "in")
    assert store.undelivered() == (1, "HTTP status 401") and not receiver.events
    store.close()


def test_signature_equals_the_standard_webhooks_example() -> None:
    """Example of https://github.com/standard-webhooks/standard-webhooks."""
    hook = Webhook.of("https://example.com", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = hook.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_delays_double_up_to_the_maximum() -> None:
    for failures, longest in ((1, 1), (3, 4), (9, 256), (10, 300), (10_000, 300)):
        delays = [webhook_module.delay_after(failures) for _ in range(50)]
        assert longest / 2 <= min(delays) and max(delays) <= longest


@pytest.mark.parametrize(
    ("url", "secret", "message"),
    [
        ("line.example", "secret", "must be an http or https URL"),
        ("ftp://line.example", "secret", "must be an http or https URL"),
        ("http://line.example", None, "needs a secret"),
        ("http://line.example", "whsec_§", "must be base64"),
    ],
)
def test_invalid_webhooks_raise(url: str, secret: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Webhook.of(url, secret)


def test_secret_is_not_printed() -> None:
    assert "a secret" not in repr(Webhook.of("http://line.example", SECRET))
    assert base64.b64encode(b"a secret").decode()[:8] not in repr(Webhook.of("http://x.y", SECRET))
