from pathlib import Path

import pytest

import tl_lightning
from tl_lightning.errors import UserError
from tl_lightning.files import located


def test_package_prefix_is_inside_the_package() -> None:
    expected = Path(tl_lightning.__file__).parent / "assets/reviews/train.csv"
    assert located("package:tl_lightning/assets/reviews/train.csv") == expected
    assert expected.is_file()


def test_a_package_that_is_not_installed_names_what_brings_it() -> None:
    with pytest.raises(UserError, match="pip install no_such_package"):
        located("package:no_such_package/model")
