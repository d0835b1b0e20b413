"""Signing of links at the moment they are opened, by provider.

A signer turns a plain link into one that opens. Signers are known by name, or given on the command line as
`module:function`; data never name one.
"""

from __future__ import annotations

import importlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

from geotreeclip.errors import ConfigError
from geotreeclip.prep.imagery.problems import Unreachable

__all__ = ["SIGNERS", "PlanetaryComputer", "Signer", "signer", "signer_of"]

Signer = Callable[[str], str]

_BLOBS = ".blob.core.windows.net"


def plain(href: str) -> str:
    """No signing."""
    return href


class PlanetaryComputer:
    """Links into the storage of the Planetary Computer, signed with a token of its public endpoint.

    `GET {url}/{account}/{container}` gives `{"token": ..., "msft:expiry": ...}`; the token is appended to links as
    their query and asked anew a minute before it expires. A subscription key in the environment variable
    PC_SDK_SUBSCRIPTION_KEY is sent along where there is one; without it the endpoint works, at a lower rate.
    """

    def __init__(self, url: str = "https://planetarycomputer.microsoft.com/api/sas/v1/token") -> None:
        self.url = url
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    def __call__(self, href: str) -> str:
        """Sign a link; one that leads elsewhere, or is signed, is given back as it is.

        Raises:
            Unreachable: The endpoint gives no token.
        """
        parts = urlsplit(href)
        if not parts.netloc.endswith(_BLOBS) or parts.query:
            return href
        place = (parts.netloc.removesuffix(_BLOBS), parts.path.lstrip("/").partition("/")[0])
        token, expiry = self._tokens.get(place, ("", 0.0))
        if expiry - time.time() < 60:
            token, expiry = self._tokens[place] = self._ask(*place)
        return f"{href}?{token}"

    def _ask(self, account: str, container: str) -> tuple[str, float]:
        request = urllib.request.Request(f"{self.url}/{account}/{container}")  # noqa: S310  # an address of ours
        if key := os.environ.get("PC_SDK_SUBSCRIPTION_KEY"):
            request.add_header("Ocp-Apim-Subscription-Key", key)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                document = json.load(answer)
            expiry = datetime.fromisoformat(str(document["msft:expiry"]).replace("Z", "+00:00")).timestamp()
            return str(document["token"]), expiry
        except (OSError, ValueError, KeyError) as error:
            raise Unreachable(f"{request.full_url}: gives no token for reading ({error!r})") from error


SIGNERS: dict[str, Callable[[], Signer]] = {"none": lambda: plain, "planetary-computer": PlanetaryComputer}
"""By name."""


def signer_of(host: str) -> str:
    """Name of the signer that links of a server need."""
    return "planetary-computer" if host.endswith("planetarycomputer.microsoft.com") else "none"


def signer(name: str) -> Signer:
    """The signer of a name, or of `module:function` as a user gives it on the command line.

    Raises:
        ConfigError: There is none.
    """
    if name in SIGNERS:
        return SIGNERS[name]()
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigError(f"--sign {name!r} is unknown; known: {', '.join(SIGNERS)}, or module:function of your own")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--sign {name}: cannot be loaded: {error}") from error
    if not callable(found):
        raise ConfigError(f"--sign {name}: is no function; it must take a link and return the signed one")
    chosen: Signer = found
    return chosen
