"""docs/onnx/browser.html in headless Chromium, used as a person would use it.

It runs where Chromium is installed and ONNXRUNTIME_WEB names the folder `dist` of onnxruntime-web;
docs/onnx.md says how to get both.
"""

import functools
import http.server
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rwkv_edge import Model
from rwkv_edge.builtin import checkpoint_path
from rwkv_edge.converters.convert import convert
from tests.docs.conftest import Export

PAGE = Path(__file__).resolve().parents[2] / "docs" / "onnx" / "browser.html"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FOLDER_VARIABLE = "ONNXRUNTIME_WEB"
RUNTIME = Path(os.environ.get(FOLDER_VARIABLE) or "onnxruntime-web-is-not-named")
# More than 16 tokens, which RWKV-7 takes otherwise than fewer.
PROMPT = "A list is an object that holds other objects in an order, and a dictionary is "
# A browser that starts on a busy machine, several texts, and nothing that takes longer.
TIMEOUT_S = 180

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(
        not (RUNTIME / "ort.wasm.min.mjs").is_file(),
        reason=f"{FOLDER_VARIABLE} names no folder with onnxruntime-web's ort.wasm.min.mjs",
    ),
]

# Stands beside the page, chooses files and presses buttons in it, and sends what it shows.
DRIVER = """
<iframe src="page.html"></iframe>
<script>
const plan = PLAN;
onload = async () => {
  const page = frames[0].document, $ = (id) => page.getElementById(id), seen = [];
  const settled = async () => {
    do { await new Promise((later) => setTimeout(later, 20)); } while ($("files").disabled);
    seen.push([$("status").textContent, $("text").textContent]);
  };
  const chosen = new DataTransfer();
  for (const name of plan.files) {
    chosen.items.add(new File([await (await fetch(name)).blob()], name));
  }
  $("files").files = chosen.files;
  $("files").dispatchEvent(new Event("change"));
  await settled();
  for (const [button, prompt, count] of plan.presses) {
    $("prompt").value = prompt;
    $("count").value = count;
    $(button).click();
    await settled();
  }
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
};
</script>
"""


@dataclass(frozen=True)
class Seen:
    """What the page showed when it had done one thing."""

    status: str
    text: str


Press = tuple[str, str, int]
Visit = Callable[[Sequence[Path], Sequence[Press]], list[Seen]]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serve a folder, and keep what the driver sends."""

    def __init__(self, *arguments: object, seen: "queue.Queue[object]", **named: object) -> None:
        self.seen = seen
        super().__init__(*arguments, **named)

    def do_POST(self) -> None:
        self.seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        del arguments


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[Visit]:
    """Open the page, choose these files, press (button, prompt, number of tokens) in turn."""
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(PAGE, site / "page.html")
    (site / "ort").symlink_to(RUNTIME.resolve(), target_is_directory=True)
    seen: queue.Queue[list[list[str]]] = queue.Queue()
    handler = functools.partial(Handler, directory=str(site), seen=seen)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def visited(files: Sequence[Path], presses: Sequence[Press]) -> list[Seen]:
        for path in files:
            shutil.copy(path, site)
        plan = json.dumps({"files": [path.name for path in files], "presses": presses})
        (site / "index.html").write_text(DRIVER.replace("PLAN", plan), encoding="utf-8")
        command = [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",  # which neither root nor most containers may have
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"http://127.0.0.1:{server.server_port}/",
        ]
        with (tmp_path / "chromium.log").open("wb") as log:
            browser = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            return [Seen(*shown) for shown in seen.get(timeout=TIMEOUT_S)]
        finally:
            browser.terminate()
            browser.wait(30)

    yield visited
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], str]:
    """What plain numpy writes, greedily."""
    folder = tmp_path_factory.mktemp("gguf")

    def text(weight_type: str, n_tokens: int) -> str:
        path = folder / f"{weight_type}.gguf"
        if not path.exists():
            convert(checkpoint_path(), path, weight_type)
        with Model.load(path, "reference") as model:
            return model.generate(PROMPT, max_tokens=n_tokens, temperature=0)

    return text


# In WebAssembly activations are not rounded, so that all types give the reference's numbers but
# for the order of sums: a greedy text is the same.
@pytest.mark.parametrize("weight_type", ["F32", "F16", "Q8_0", "Q4_0"])
def test_the_page_writes_what_the_reference_writes_and_goes_on_from_its_state(
    weight_type: str, export: Export, visit: Visit, expected: Callable[[str, int], str]
) -> None:
    presses = [("go", PROMPT, 12), ("go", "", 20), ("forget", "", 0), ("go", PROMPT, 32)]
    loaded, first, second, forgotten, again = visit([export(weight_type)], presses)
    assert loaded == Seen("Ready.", "")
    assert first.status.startswith("12 tokens, ")
    assert first.text == PROMPT + expected(weight_type, 12)
    assert second.text == PROMPT + expected(weight_type, 32)
    assert forgotten == loaded
    assert again.text == second.text


def test_weights_beside_the_model_are_chosen_with_it(
    export: Export, visit: Visit, expected: Callable[[str, int], str]
) -> None:
    model = export("Q8_0", external_data=True)
    (data,) = model.parent.glob(f"{model.stem}.*.data")
    _, written = visit([data, model], [("go", PROMPT, 12)])
    assert written.text == PROMPT + expected("Q8_0", 12)


def test_what_fails_is_said(export: Export, visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"\x08\x0a")
    (shown,) = visit([tmp_path / "other.onnx"], [])
    assert shown.status == "Failed: this page knows RWKV's own tokenizer alone"
