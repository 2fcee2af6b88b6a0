"""Settings of the server."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from vqlab.config import Settings
from vqlab.errors import UserError
from vqlab.ports import is_loopback

TOKEN_VARIABLE = "VQLAB_TOKEN"
"""Environment variable of the token."""
TOKEN_LENGTH = 16
"""Minimum number of characters of a token."""


class ServeSettings(Settings):
    """Address, models and limits of a server."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but a loopback address requires a token."""
    port: int = Field(default=8000, ge=1, le=65535)
    mlruns: Path = Path("mlruns")
    """Folder of the store with the registered models."""
    watched: Path = Path("results/watch")
    """Folder with the output folders of `vqlab watch`, named by category, whose drift is shown."""
    categories: tuple[str, ...] = ()
    """Categories to serve; empty: all with a champion, including those promoted later."""
    token: SecretStr | None = None
    """Required in `Authorization: Bearer TOKEN` if set."""
    allowed_hosts: tuple[str, ...] = ()
    """Additional host names that clients may use, besides those of `host` and loopback names."""
    device: str = "auto"

    max_request_mb: float = Field(default=64, gt=0)
    """Maximum size of a request body, in units of 10⁶ bytes."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Maximum number of pixels of an image, checked before it is decoded."""
    max_images: int = Field(default=32, ge=1)
    """Maximum number of images of a request."""
    max_queue: int = Field(default=64, ge=1)
    """Maximum number of images that are in progress; further requests get status 429."""
    max_requests: int = Field(default=64, ge=1)
    """Maximum number of concurrent requests; further ones get status 429."""
    timeout: float = Field(default=30, gt=0)
    """Seconds until a request is ended, including the transfer of its body and answer."""
    header_timeout: float = Field(default=10, gt=0)
    """Seconds until a connection without a complete request header is closed."""

    max_batch: int | None = Field(default=None, ge=1)
    """Maximum number of images that are scored together; None: 8 on a GPU, 1 on a CPU, where larger
    batches save no time. With 1, scores are those of `vqlab predict` bit for bit, otherwise they
    may differ by rounding (1e-5 relative)."""
    max_wait_ms: float = Field(default=10, ge=0, le=10)
    """Milliseconds that a batch waits for images of the same model that are being decoded."""
    poll_seconds: float = Field(default=2, gt=0)
    """Interval at which the registry is checked for new champions."""
    cached_versions: int = Field(default=2, ge=1)
    """Number of versions other than champions that stay loaded."""
    picture_side: int = Field(default=1024, ge=32)
    """Maximum width and height of anomaly maps and overlays in answers."""

    @model_validator(mode="after")
    def _require_token(self) -> ServeSettings:
        secret = self.token.get_secret_value() if self.token else None
        if secret is not None and (
            len(secret) < TOKEN_LENGTH or not all("!" <= character <= "~" for character in secret)
        ):
            raise UserError(
                f"the token must have at least {TOKEN_LENGTH} characters, printable ASCII without "
                'spaces; create one with: python -c "import secrets; print(secrets.token_hex())"'
            )
        if secret is None and not is_loopback(self.host):
            raise UserError(
                f"a server on {self.host} can be reached by other machines and needs a token; set "
                f"{TOKEN_VARIABLE} (or --token), or listen on 127.0.0.1."
            )
        return self
