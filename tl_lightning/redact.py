"""What is secret stays out of what is written, sent or shown: values are left out of a structure, by key and by value.

Never in a finished text: there a secret with a quote in it is spelled otherwise, and one that is a word would take
words of the record's own with it.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus, unquote

LEFT_OUT = "***"
CARRIED = "TL_LIGHTNING_SECRETS"
SHORTEST = 4  # letters: a shorter value is no secret, and would be found everywhere
LONGEST = 200  # letters of a name
LONG = 8  # letters: from here on a value is found inside of words too
PLAIN = frozenset({"true", "false", "none", "null", "yes", "no", "auto", "basic", "default"})
# Whatever such a name holds is secret.
STRONG = re.compile(
    r"pass(?:word|wd|phrase)|secret|credential|(?:api|access|private|signing|encryption)[_.-]?key|connection[_.-]?string"
    r"|(?<![a-z])(?:pass|pwd|creds?|jwt|bearer|oauth|cookies?|otp)(?![a-z])",
    re.I,
)
# A text is, if it stands alone under such a name; a number (max_tokens) or a list (keys) is not.
WEAK = re.compile(
    r"(?<![a-z])(?:keys?|tokens?|auth|authorization|dsn|pat|netrc|sig|signature|webhook)(?![a-z])"
    r"|(?:db|smtp|ssh|ftp|user)pass(?![a-z])|tokens?(?:\d|$)"
    r"|(?:database|db|redis|mongo|mongodb|postgres|postgresql|pg|mysql|amqp|rabbitmq|broker|storage|dsn)_?ur[li]",
    re.I,
)
BESIDE = re.compile(r"(?:^|_)(?:file|path|dir|sock|socket|type|mode|size|length|count|limit|timeout|ttl)$", re.I)
FOLDERS = frozenset({"PWD", "OLDPWD"})  # of the shell
CLOUD = ("AWS_", "AZURE_", "GOOGLE_APPLICATION_")
OTHER = re.compile(r"[\d.,eE+-]+|true|false|[\[{].*|(?:choice|range|interval|tag|glob|sort|shuffle)\(.*", re.S)
"""A number, a list, a sweep of them: as it is typed."""
PLACES = frozenset({"VALUE", "NAME", "TEXT", "KEY", "TOKEN", "PASSWORD", "SECRET"})
"""What advice has in place of a value."""
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z])")
# Each begins where a word does and is bounded: a million letters without a blank take no longer than others.
BEGIN = r"(?<![\w.])(?<![\w.][+-])"  # of a word, which signs may stand before
URL = re.compile(BEGIN + r"([A-Za-z][\w+.-]{0,40})://((?:(?!://)[^\s\"'<>])*)@")
ALONE = ("http", "https", "git+https", "ws", "wss")  # a name without a password in these is a token
SHAPES = re.compile(
    r"(?<![\w-])(?:hf_[A-Za-z0-9]{20,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}"
    r"|sk-(?:proj-|ant-)?[A-Za-z0-9]{20,}|A(?:KIA|SIA)[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
    r"|-----BEGIN[ A-Z]*PRIVATE KEY-----.*?(?:-----END[ A-Z]*PRIVATE KEY-----|$)",
    re.S,
)
SAID = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,;&}\])\"']+"
ASSIGNED = re.compile(rf"{BEGIN}([A-Za-z_][\w.+-]{{0,200}})(\s?=\s?)({SAID})")
MAPPED = re.compile(rf"((?:[{{,]\s{{0,8}}|[\"'])[A-Za-z_][\w.-]{{0,200}}[\"']?)(\s{{0,8}}:\s{{0,8}})({SAID})")
HEADER = re.compile(r"(?i)(\bauthorization\b[\"']?\s*[:=]\s*[\"']?(?:[a-z]+\s+)?|\bbearer\s+)([\w.~+/=-]{8,})")
WHOLE_URL = re.compile(r"[A-Za-z][\w+.-]*://\S*@[^@\s]*")
WORD = re.compile(r"([+~-]*[A-Za-z_][\w./@-]*)=(.*)", re.S)


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a key, a token, a password or the like."""
    return name not in FOLDERS and (name.startswith(CLOUD) or _weak(name))


def _strong(name: str) -> bool:
    return bool(STRONG.search(_spelled(name))) and not BESIDE.search(name)


def _weak(name: str) -> bool:
    return _strong(name) or (bool(WEAK.search(_spelled(name))) and not BESIDE.search(name))


def _spelled(name: str) -> str:
    """``apiKey2`` as ``api_Key``: what is one word is so between marks; of a very long name its end counts."""
    return re.sub(r"\d+(?=$|_)", "", CAMEL.sub("_", name[-LONGEST:]))


def redacted(content: Any, own: Set[str] = frozenset()) -> Any:
    """Plain containers with ``***`` in place of what is secret; keys, numbers and the own words of a record stay.

    Secret is what stands under a key that says so, what an environment variable of such a name holds, what was typed
    for such a key, the password in a URL, and what looks like a token of a known service.

    Args:
        content: mappings, lists and scalars; anything else is taken as its text.
        own: keys at the top whose values are words of this program, never of a user's.
    """
    hide = partial(_word, known=_known())
    if not isinstance(content, Mapping):
        return _redacted(content, hide)
    return {k: _plain(v) if k in own else _under(str(k), v, hide) for k, v in content.items()}


def _redacted(content: Any, hide: Callable[[str], str]) -> Any:
    if isinstance(content, Mapping):
        return {key: _under(str(key), value, hide) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_redacted(value, hide) for value in content]
    return content if content is None or isinstance(content, (bool, int, float)) else hide(str(content))


def _plain(content: Any) -> Any:
    return _redacted(content, str)


def _under(key: str, value: Any, hide: Callable[[str], str]) -> Any:
    if key == "_target_":  # a part, which is checked: no text of a user's
        return value
    if _strong(key) and not isinstance(value, bool):
        return _emptied(value)
    return _emptied(value) if isinstance(value, str) and _weak(key) else _redacted(value, hide)


def _emptied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _emptied(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_emptied(inner) for inner in value]
    return value if value is None or value in ("", "null") or isinstance(value, bool) else LEFT_OUT


def redacted_text(text: str) -> str:
    """A text without what is secret in it: on its way to a screen or a log."""
    return _text(text, _known())


def redacted_word(word: str) -> str:
    """A word of a command, or another short text: where it is ``KEY=VALUE``, all behind the sign is its value."""
    return _word(word, _known())


def _word(text: str, known: re.Pattern[str] | None) -> str:
    word = WORD.fullmatch(text)  # as typed: its value is all that stands behind the sign
    if word is not None:
        key, value = word.groups()
        return f"{key}={LEFT_OUT if _says(_last(key), value) else _text(value, known)}"
    return _text(text, known)


def _says(name: str, typed: str) -> bool:
    """Whether a name says that what is typed for it is secret."""
    return typed not in ("", "null", *PLACES) and (_strong(name) or (_weak(name) and not OTHER.fullmatch(typed)))


def _last(key: str) -> str:
    return key.rpartition(".")[2].lstrip("+~-")


def _text(text: str, known: re.Pattern[str] | None) -> str:
    if WHOLE_URL.fullmatch(text):
        scheme, _, rest = text.partition("://")
        said, _, host = rest.rpartition("@")
        return _without_password(scheme, said) + host
    if known is not None:
        text = known.sub(LEFT_OUT, text)
    for pattern, how in ((URL, _in_url), (HEADER, _in_header), (ASSIGNED, _assigned), (MAPPED, _mapped)):
        text = pattern.sub(how, text)
    return SHAPES.sub(LEFT_OUT, text)


def _in_url(found: re.Match[str]) -> str:
    return _without_password(*found.groups())


def _without_password(scheme: str, said: str) -> str:
    user, colon, _ = said.partition(":")
    if colon:
        return f"{scheme}://{user}:{LEFT_OUT}@"
    token = scheme.lower() in ALONE and "/" not in said
    return f"{scheme}://{LEFT_OUT if token else said}@"


def _in_header(found: re.Match[str]) -> str:
    return f"{found[1]}{LEFT_OUT}"


def _assigned(found: re.Match[str]) -> str:
    name, sign, value = found.groups()
    return f"{name}{sign}{LEFT_OUT}" if _says(_last(name), value) else found[0]


def _mapped(found: re.Match[str]) -> str:
    before, sign, value = found.groups()
    secret = _strong(before.strip("{, \"'")) and value != "null"
    return f"{before}{sign}{LEFT_OUT}" if secret else found[0]


def _known() -> re.Pattern[str] | None:
    """Finds every secret value that this process knows of, in each form that a text may hold it; None for none."""
    values = {form for value in (*_of_environment(), *_typed()) for form in _forms(value)}
    if not values:
        return None
    parts = (_bounded(value) for value in sorted(values, key=len, reverse=True))
    return re.compile("|".join(parts))


def _bounded(value: str) -> str:
    found = re.escape(value)
    return found if len(value) >= LONG else rf"(?<![^\W_]){found}(?![^\W_])"


def _forms(value: str) -> Iterator[str]:
    value = value.strip()
    if len(value) < SHORTEST or value.lower() in PLAIN:
        return
    yield from (value, quote(value, safe=""), quote_plus(value), repr(value)[1:-1], json.dumps(value)[1:-1])


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if name not in FOLDERS and _weak(name):  # not the regions and profiles of a cloud, which are words
            yield value
        yield from _passwords(value)
    yield from (str(value) for _, value in carried())


def carried() -> list[tuple[list[str | int], Any]]:
    """Places and values that the ``config.yaml`` of this process lacks, as the process that started it tells."""
    found: list[tuple[list[str | int], Any]] = json.loads(os.environ.get(CARRIED) or "[]")
    return found


def _typed() -> Iterator[str]:
    for word in sys.orig_argv:
        key, equals, value = word.partition("=")
        name = _last(key)  # under a weak one a few letters may be any word
        if equals and _says(name, value) and (_strong(name) or len(value) >= LONG or not value.isalpha()):
            yield from (value, value.strip("'\""))
        yield from _passwords(value if equals else word)


def _passwords(text: str) -> Iterator[str]:
    whole = [text.partition("://")[2].rpartition("@")[0]] if WHOLE_URL.fullmatch(text) else []
    for said in (*whole, *(said for _, said in URL.findall(text))):
        password = said.partition(":")[2]
        yield from (password, unquote(password))
