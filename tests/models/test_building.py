"""A backbone is built by its name. A wrong name is refused."""

import re

import pytest

from pipeline.common.errors import UserError


@pytest.mark.parametrize(("takes", "name", "message"), [
    ("frames", "r2plus1d_81", "there is no network r2plus1d_81; close to it: r2plus1d_18"),
    ("log_mel", "resnet18_", "close to it: resnet18"),
    ("frames", "resnet18.nobody", "no weights nobody of resnet18; it has resnet18.a1_in1k"),
    ("frames", "resnet18.", "no weights  of resnet18; it has resnet18.a1_in1k"),
    ("frames", "timm/resnet18.a1_in1k", "one on Hugging Face's hub is named hf_hub:owner/name"),
])  # fmt: skip
def test_a_wrong_name_is_refused_with_the_right_ones(takes, name, message, build):
    with pytest.raises(UserError, match=re.escape(message)):
        build(takes, name)


def test_a_network_for_clips_is_refused_for_log_mels(build):
    message = "r2plus1d_18 is a network for frames; for log_mel take small, or one of timm's"
    with pytest.raises(UserError, match=re.escape(message)):
        build("log_mel", "r2plus1d_18")


@pytest.mark.parametrize("network", ["r2plus1d_18", "swin3d_t"])
def test_a_network_for_clips_is_refused_for_people(build, network):
    with pytest.raises(UserError, match=f"stream takes people, but {network} is a network for clips"):
        build("people", network, frames=4)


@pytest.mark.parametrize("of_frames", [None, 2])
def test_a_network_for_people_states_a_token_for_each_of_them_in_each_frame_of_its_stream(build, features, of_frames):
    people = features.people.model_copy(update={"most": 3})
    network = build("people", "small", of_frames=of_frames, people=people)
    assert network.interface.gives[0] == 3 * (of_frames or features.frames)


def test_the_small_network_takes_no_grid(build):
    with pytest.raises(UserError, match=r"streams\.stream\.grid is 2, but the small network takes 1"):
        build("frames", "small", grid=2)
