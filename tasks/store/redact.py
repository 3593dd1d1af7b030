"""Taking secrets out of what libraries say. Their messages may repeat an address or a setting of the environment."""

from __future__ import annotations

import os
import re

_USERINFO = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'\"]+@")
_PARAMETER = re.compile(
    r"(?i)\b((?:x-amz-[a-z-]+|x-goog-[a-z-]+|signature|sig|token|awsaccesskeyid|googleaccessid|accountkey|accesskey|"
    r"sharedaccesssignature|password|secret|api[_-]?key)\s*[=:]\s*)[^\s&;,'\"]+"
)
_SECRET_NAME = re.compile(r"(?i)(secret|token|password|passwd|api_?key|access_?key|connection_string|sas)")
MIN_SECRET = 8
"""Shorter values of the environment are no secrets, and would be found by chance."""


def redact(text: str) -> str:
    """The text without user names before hosts, signatures, keys, and values of secret settings of the environment."""
    for name, value in os.environ.items():
        if len(value) >= MIN_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, "…")
    return _PARAMETER.sub(r"\1…", _USERINFO.sub(r"\1", text))
