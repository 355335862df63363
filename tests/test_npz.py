"""Reading .npz files: what is wrong with a file is explained, and no message suggests to execute what is in it."""

import io
import pickle
import zipfile

import numpy
import pytest

from torchnotes._bad_input import BadInput
from torchnotes.classifier.npz import read_npz

X, Y = numpy.arange(6.0).reshape(3, 2), numpy.array(["a", "b", "a"])
OBJECTS = numpy.array([["a", 1.0]] * 3, object)


def npz(**arrays):
    file = io.BytesIO()
    numpy.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    numpy.save(file, array)
    return file.getvalue()


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("more", ({}, {"notes": OBJECTS}))
def test_reads_only_what_is_asked_for(tmp_path, more):
    path = tmp_path / "x.npz"
    path.write_bytes(npz(data=X, labels=Y, **more))
    x, y, none = read_npz(path, ("x", "data"), ("labels",), ("absent",))
    assert (x == X).all()
    assert (y == Y).all()
    assert none is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    (
        (npz(x=OBJECTS), "x has Python objects: save x.astype(float), or x.astype(str)"),
        (npz(x=X, y=numpy.array(["a", None, "b"], object)), "y has Python objects: save y.astype(float)"),
        (npz(y=Y), "contains y, but no array called x or data"),
        (npz(), "contains nothing, but no array called x or data"),
        (npy(X), "it is a single array without a name"),
        (npy(OBJECTS), "it is not an archive of numbers"),
        (pickle.dumps({"x": 1}), "it is not an archive of numbers"),
        (b"a,b\n1,2\n", "it is not an archive of numbers"),
        (b"", "No data left in file"),
        (npz(x=X)[:100], "File is not a zip file"),
        (archive(x=b"hello"), "x is not an array"),
        (archive(**{"x.npy": b"hello"}), "x is not an array"),
        (archive(**{"x.npy": npy(X)[:-8]}), "cannot be read: "),
    ),
)
def test_says_what_is_wrong(tmp_path, content, complaint):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        read_npz(path, ("x", "data"), ("y",))
    assert complaint in str(error.value)
    assert "pickle" not in str(error.value)
    assert "\n" not in str(error.value)
