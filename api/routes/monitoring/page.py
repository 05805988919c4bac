"""`/`: one self-contained page that lists the tasks with their live progress.

The page is open, as it holds nothing; what it shows comes over the API with the key that a person enters.
"""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter()


@cache
def _page() -> tuple[str, str]:
    """The page, and a content policy that lets nothing run but the page's own script."""
    text = files("web").joinpath("index.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    allowed = f"connect-src 'self'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    allowed += "; img-src data:"  # a report that is opened from here keeps this policy, and holds its pictures inline
    return text, f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@router.get("/", include_in_schema=False)
def tasks_page() -> HTMLResponse:
    """The page."""
    text, policy = _page()
    headers = {"content-security-policy": policy, "cache-control": "no-cache", "referrer-policy": "no-referrer"}
    return HTMLResponse(text, headers=headers)
