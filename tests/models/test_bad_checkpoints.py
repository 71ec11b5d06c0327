"""Files that hold no weights: each kind is named in one line, and nothing that is in them is run."""

import argparse
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from fsfast.models import load_encoder
from fsfast.models.checkpoints import files, shards
from tests.models.published import NARROW, tower
from tests.models.refusals import refusal

WEIGHTS = tower()


def torch_bytes(content, **how):
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


ZIP, LEGACY, SAFE = (
    torch_bytes(WEIGHTS),
    torch_bytes(WEIGHTS, _use_new_zipfile_serialization=False),
    save(WEIGHTS),
)


# Files that are something else.

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12\n"
)
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "this is an empty file; get it again"),
        (POINTER, "a pointer of git-lfs, not the file itself; run: git lfs pull"),
        (PAGE, "this is a web page: the download failed; download the file itself"),
        (b"\xef\xbb\xbf\r\n <html>", "a web page"),
        (b"Entry not found", "text that begins with 'Entry not found'"),
        (b'{"error":"Repository not found"}', "text that begins with"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "got a PNG image"),
        (b"\x7fELF\x02\x01\x01\x00{" + bytes(40), "got something else that begins with"),
    ],
    ids=["empty", "lfs", "html", "html after BOM", "text", "json", "png", "elf"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "weights.pt"])
def test_a_file_that_is_something_else_is_named(content, complaint, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert complaint in refusal(tmp_path / name)


def test_other_zip_archives_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    assert "a zip archive of something else" in refusal(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_is_refused_with_the_way_to_convert_it(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT-L-14.pt")
    assert "a TorchScript archive, a program" in refusal(tmp_path / "ViT-L-14.pt")


@pytest.mark.parametrize("path", ["missing.safetensors", "missing/", "empty"])
def test_nothing_there_is_said(path, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "found no" in refusal(tmp_path / path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "found none at" in refusal(tmp_path / "pipe")


# Truncated files.


@pytest.mark.parametrize("whole", [ZIP, LEGACY, SAFE], ids=["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("left", [0.0005, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_refused(whole, left, tmp_path):
    cut = max(9, int(len(whole) * left))
    (tmp_path / "a").write_bytes(whole[:cut])
    message = refusal(tmp_path / "a")
    assert "truncated or damaged (" in message
    assert message.endswith("; get it again")


def test_no_header_is_taken_for_text(tmp_path):
    # As long as the two characters " <" say, in little endian; and one that begins with "<".
    for length in (0x3C20, 0x3C3C):
        header = SAFE[8 : 8 + int.from_bytes(SAFE[:8], "little")]
        content = length.to_bytes(8, "little") + header.ljust(length) + SAFE[8 + len(header) :]
        (tmp_path / "a.safetensors").write_bytes(content)
        module = load_encoder(tmp_path / "a.safetensors", NARROW).module
        assert torch.equal(module.proj, WEIGHTS["proj"])


# Code in the file.


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_is_not_run(form, tmp_path):
    content = WEIGHTS | {"bias": Attack(tmp_path / "run")}
    path = tmp_path / "weights.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = refusal(path)
    assert "which could run code and was not loaded" in message
    if form != "pickle":
        assert f"a pickled {os.name}.mkdir" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        # What training scripts keep beside the weights.
        ({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1)}, "got a pickled argparse.Namespace"),
        (torch.nn.Linear(2, 2), "got a pickled torch.nn.modules.linear.Linear"),
        ([WEIGHTS], "wanted a dictionary of tensors, got list"),
        ({}, "wanted a dictionary of tensors, got an empty one"),
        (WEIGHTS | {"epoch": 3}, "got int under 'epoch'; save the state dict alone"),
        ({0: torch.zeros(1)}, "got Tensor under 0"),
        ({"encoder": WEIGHTS}, "alone or under state_dict, vision_encoder_state_dict"),
        ({"model": WEIGHTS, "state_dict": WEIGHTS}, "wanted one state dict, got state_dict and model"),
    ],
    ids=["namespace", "module", "list", "empty", "number", "index", "unknown key", "two"],
)
def test_other_contents_of_torch_save_are_refused(content, complaint, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    assert complaint in refusal(tmp_path / "a.pt")


def test_a_dictionary_that_contains_itself_is_refused(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "a.pt")
    assert "got dict under 'model'" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize("what", ["data.pkl", "data/0"])
def test_compressed_archives_are_refused(what, tmp_path):
    """A pickle of zeros could inflate a thousandfold; compressed tensors would be read as they lie there."""
    with zipfile.ZipFile(io.BytesIO(ZIP)) as stored, zipfile.ZipFile(tmp_path / "a.pt", "w") as packed:
        for name in stored.namelist():
            method = zipfile.ZIP_DEFLATED if name.endswith(what) else zipfile.ZIP_STORED
            packed.writestr(name, stored.read(name) + bytes(1 << 20), method)
    message = refusal(tmp_path / "a.pt")
    assert "which compresses nothing" in message
    assert what in message


def test_a_huge_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_PICKLE_BYTES", 100)
    (tmp_path / "a.pt").write_bytes(ZIP)
    assert "data.pkl with" in refusal(tmp_path / "a.pt")


def test_a_zip_archive_with_a_damaged_directory_is_refused(tmp_path):
    end = ZIP.rindex(b"PK\x01\x02")
    (tmp_path / "a.pt").write_bytes(ZIP[:end] + b"PK\x07\x02" + ZIP[end + 4 :])
    assert not zipfile.ZipFile(io.BytesIO(ZIP)).testzip()
    assert "truncated or damaged" in refusal(tmp_path / "a.pt")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_file(WEIGHTS, path)
    sha256 = shards.file_sha256

    def touch_and_hash(file):
        os.utime(file, (1, 1))
        return sha256(file)

    monkeypatch.setattr(shards, "file_sha256", touch_and_hash)
    assert "the file changed while it was read" in refusal(path)
