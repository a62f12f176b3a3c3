"""Pages in Chromium, where there is one."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

FRAME = """<!DOCTYPE html><body style="margin: 0">
<iframe src="{page}" style="width: {width}px; height: 900px; border: 0"></iframe><pre></pre><script>
addEventListener("message", message => {{ document.querySelector("pre").textContent = message.data; }});
</script></body>"""


def measured(page: Path, width: int, measure: str, *, dark: bool = False) -> Any:
    """Return the value of an expression of JavaScript in a copy of a page that is so many pixels wide."""
    script = f"<script>onload = () => parent.postMessage(JSON.stringify({measure}), '*')</script>"
    page.with_suffix(".copy.html").write_bytes(page.read_bytes() + script.encode())
    frame = page.with_suffix(".frame.html")
    frame.write_text(FRAME.format(page=page.with_suffix(".copy.html").name, width=width))
    how = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", *how]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    shown = subprocess.run(
        [*command, profile, "--dump-dom", frame.as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    return json.loads(unescape(re.search(r"<pre>(.*?)</pre>", shown, re.DOTALL).group(1)))
