"""What is said of every model is true of each one."""

import pytest

from pipeline.results.model_card import statements_of


@pytest.mark.parametrize(("inputs", "sentence"), [
    ({"log_mel"}, "It uses the sound."),
    ({"people", "log_mel"}, "It uses the faces in the frames and the sound."),
    ({"log_mel", "frames", "people"}, "It uses frames of the whole scene, the faces in the frames and the sound."),
])  # fmt: skip
def test_the_statements_name_what_the_model_takes(inputs, sentence):
    assert statements_of(["happy", "sad"], inputs)["What it does"].endswith(f"is happy or sad. {sentence}")
