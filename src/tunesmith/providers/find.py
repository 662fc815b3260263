"""`--provider openai`, `together` or a URL → the provider, with its key from the environment."""

import re

from tunesmith.errors import SpecError
from tunesmith.providers.openai import OPENAI_URL, OpenAI
from tunesmith.providers.protocol import Provider
from tunesmith.providers.together import TOGETHER_URL, Together
from tunesmith.settings import api_key, http_url

_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


def find_provider(name: str) -> Provider:
    """The provider called `name`, or the OpenAI-compatible server at that URL.

    Raises SpecError when it is neither, or its key is not in the environment (a server on this machine may need none).
    """
    match name:
        case "openai":
            return OpenAI(name=name, base_url=OPENAI_URL, key=_key("OPENAI_API_KEY"), key_variable="OPENAI_API_KEY")
        case "together":
            return Together(base_url=TOGETHER_URL, key=_key("TOGETHER_API_KEY"), key_variable="TOGETHER_API_KEY")
    url = http_url(name)
    if url is None:
        raise SpecError(f"--provider {name}: give openai, together, or a base URL such as http://localhost:8000/v1")
    variable = "TUNESMITH_API_KEY"
    local = _LOOPBACK.fullmatch(url.hostname or "") is not None
    if url.scheme == "http" and not local and api_key(variable):
        raise SpecError(f"--provider {name}: {variable} would travel unencrypted; use https")
    return OpenAI(name=name, base_url=name, key=api_key(variable) if local else _key(variable), key_variable=variable)


def _key(variable: str) -> str:
    key = api_key(variable)
    if key is None:
        raise SpecError(f"no API key: set {variable} in the environment (it is read from there and never stored)")
    return key
