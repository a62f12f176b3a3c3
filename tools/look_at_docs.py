"""Look at the built documentation in Chromium: no page is wider than its window, and none reports an error.

Usage: look_at_docs.py FOLDER. Pages are looked at in windows of 1280 and 360 pixels, all of them in one run of
Chromium, from a server on this machine that tells of every file that is missing. Without a browser nothing is looked
at.
"""

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WIDTHS = (1280, 360)
MINUTES = 5

LOOK = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><body style="margin: 0"><script>
const found = [];
const look = (page, width) => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => setTimeout(() => {
    const root = frame.contentDocument.documentElement;
    const wide = [...root.querySelectorAll("main *")].filter(part => {
      if (part.getBoundingClientRect().right <= width + 1) return false;
      for (let around = part.parentElement; around.tagName !== "BODY"; around = around.parentElement)
        if (getComputedStyle(around).overflowX !== "visible") return false;  // it scrolls
      return true;
    });
    const broken = [...root.querySelectorAll("img")].filter(image => image.complete && !image.naturalWidth);
    const loaded = [...root.querySelectorAll("[src], link[rel=stylesheet], link[rel=preload]")];
    for (const part of loaded) {
      const address = new URL(part.src || part.href, location);
      if (address.protocol !== "data:" && address.origin !== location.origin)
        found.push(`${page} loads ${address}, where pages need no network`);
    }
    if (root.scrollWidth > width)
      found.push(`${page} is ${root.scrollWidth} pixels wide in a window of ${width}`);
    for (const part of wide.slice(0, 3))
      found.push(`${page}, in a window of ${width}: too wide is ${part.outerHTML.slice(0, 120)}`);
    for (const image of broken) found.push(`${page}: the picture ${image.getAttribute("src")} cannot be shown`);
    frame.remove();
    done();
  }, 30);
  frame.src = page;
  document.body.append(frame);
});
(async () => {
  for (const page of PAGES) for (const width of WIDTHS) await look(page, width);
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


class Server(ThreadingHTTPServer):
    """Serves a folder and the page that looks at all others; keeps what is found."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
        self.pages = [page for page in pages if not page.startswith("_")]
        self.look = LOOK.replace("PAGES", json.dumps(["/" + page for page in self.pages])).replace(
            "WIDTHS", str([*WIDTHS])
        )
        self.found: queue.Queue[list[str]] = queue.Queue()
        self.missing: set[str] = set()


class Handler(SimpleHTTPRequestHandler):
    """Answers Chromium."""

    server: Server

    def do_GET(self) -> None:
        """Give a file, or the page that looks at all others."""
        if self.path != "/look":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.look.encode())
        return None

    def do_POST(self) -> None:
        """Take what was found."""
        text = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.found.put(json.loads(text))

    def send_error(self, code: int, *given: Any, **named: Any) -> None:
        """Note what is not there."""
        self.server.missing.add(f"{self.path} is not there ({code}), for {self.headers.get('Referer')}")
        super().send_error(code, *given, **named)

    def log_message(self, *_given: Any) -> None:
        """Say nothing of what is as it should be."""


def faults(folder: Path, browser: str) -> tuple[list[str], int]:
    """Return what is wrong with the pages in a folder, a line each, and how many pages there are."""
    server = Server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile, tempfile.TemporaryFile("w+") as messages:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
        offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        logging = ["--enable-logging=stderr", f"--user-data-dir={profile}", offline]
        address = f"http://127.0.0.1:{server.server_port}/look"
        chromium = subprocess.Popen(
            [*command, *logging, "--remote-debugging-port=0", address], stdout=messages, stderr=messages
        )
        try:
            found = server.found.get(timeout=60 * MINUTES)
        except queue.Empty:
            found = [f"Chromium did not look at all pages within {MINUTES} minutes"]
        finally:
            chromium.terminate()
            chromium.wait()
            server.shutdown()
        messages.seek(0)
        console = {line.split("CONSOLE", 1)[1].split("] ", 1)[-1].strip() for line in messages if "CONSOLE" in line}
    return [*dict.fromkeys(found), *sorted(server.missing), *sorted(console)], len(server.pages)


def main(folder: Path) -> int:
    """Look, and print what is wrong; return the exit status."""
    if not (folder / "index.html").exists():
        print(f"{folder} has no index.html: build the documentation first, by `make docs`.", file=sys.stderr)
        return 2
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("There is no Chromium, so that the documentation's pages are not looked at.")
        return 0
    wrong, pages = faults(folder, browser)
    print(*wrong, f"Looked at {pages} pages in windows of {' and '.join(map(str, WIDTHS))} pixels.", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
