"""A small run of the language experiment."""

import pytest

from experiments.language import main as language
from tests.helpers.experiment_options import language_options


@pytest.fixture(scope="module")
def smoke(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    return folder, language.run(language_options(model_folder), folder)
