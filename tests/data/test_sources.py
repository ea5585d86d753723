import os
import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from torchvision.transforms import v2

from geovq.data import open_source, source_names
from geovq.data.__main__ import main
from geovq.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "imagenet"},
            r"data\.name=imagenet: unknown; choose one of cifar10, digits, fashion, folder, huggingface, mnist",
        ),
        ({"name": "digits", "image_size": 0}, r"data\.image_size=0"),
        ({"name": "digits", "channels": 2}, r"data\.channels=2"),
        ({"name": "digits", "test_fraction": 1.0}, r"data\.test_fraction=1\.0"),
        ({"name": "mnist", "path": "here"}, r"data\.path=.*/here: data=mnist does not read it; take data=folder"),
    ],
)
def test_settings_that_fit_no_source(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        open_source(root="unused", **settings)


def test_other_size_and_channels_of_a_public_set() -> None:
    plain = open_source("digits", "unused")
    wide = open_source("digits", "unused", image_size=12, channels=3)
    images, original = wide.load().train_images, plain.load().train_images
    assert wide.info().image_shape == tuple(images.shape[1:]) == (3, 12, 12)
    assert wide.info().fingerprint == plain.info().fingerprint
    assert (images == images[:, :1]).all()
    resize = v2.Resize((12, 12), interpolation=v2.InterpolationMode.LANCZOS)
    peer = np.asarray(resize(PIL.Image.fromarray(original[5, 0].numpy())))
    np.testing.assert_array_equal(images[5, 0], peer)


OF_PEOPLE = ("folder", "huggingface")


def test_every_option_opens_a_source(tmp_path) -> None:
    (tmp_path / "0").mkdir()
    for name in source_names():
        assert open_source(name, tmp_path, path=tmp_path if name in OF_PEOPLE else None, download=False).location


def test_command_tells_what_is_there(capsys) -> None:
    assert main(["digits"]) == 0
    assert capsys.readouterr().out.startswith("digits: 1,438 training and 359 test images of 1x8x8 in ")


def test_command_fails_with_one_line(tmp_path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [ROOT / "scripts/download_data.sh", "mnist", tmp_path / "file"],
        capture_output=True,
        text=True,
        env={**os.environ, "GEOVQ_DEBUG": "0"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: data.root=")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_command_refuses_an_unknown_name(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["imagenet"])
    assert ended.value.code == 2
    assert "invalid choice: 'imagenet'" in capsys.readouterr().err
