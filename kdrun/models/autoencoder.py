"""The auto-encoder that translates images from one domain to another."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from torch import nn


class AutoEncoder(nn.Sequential):
    """Five encoders down to a small map and five decoders back: images (N, C, S, S) to images in [-1, 1].

    Submodules ``enc1`` ... ``enc5`` and ``dec1`` ... ``dec5``. At 64x64 the encoders give (N, 64, 31, 31),
    (N, 128, 15, 15), (N, 256, 7, 7), (N, 512, 3, 3), (N, 512, 1, 1); the decoders (N, 512, 4, 4), (N, 256, 8,
    8), (N, 128, 16, 16), (N, 64, 32, 32), (N, C, 64, 64). The map of an encoder is one row and one column smaller
    than the map of the decoder of the same level (31 and 32, 15 and 16), because its pooling has stride 1; a loss
    that compares the two must allow for that. With three channels it has 10,862,592 parameters. With another
    ``width``, all maps except the images have ``width`` / 64 times as many channels.

    Args:
        channels: channels of the input and output images.
        classes: not used; it is passed to every model.
        size: width and height of the images.
        width: channels of the first encoder.

    Raises:
        ValueError: if ``size`` is less than 64 or no multiple of 16: the output would have another size.

    github.com/ruchikachavhan/symmetrical-knowledge-distillation-in-Auto-encoder-networks.
    """

    channels_last = True

    def __init__(self, channels: int, classes: int, size: int, width: Annotated[int, "[1, inf)"] = 64) -> None:
        if size < 64 or size % 16:
            raise ValueError(f"{size}x{size} images do not come back as {size}x{size}: set dataset.size=64 or 128")
        super().__init__(
            OrderedDict(
                enc1=_encoder(channels, width),
                enc2=_encoder(width, 2 * width),
                enc3=_encoder(2 * width, 4 * width),
                enc4=_encoder(4 * width, 8 * width),
                enc5=nn.Conv2d(8 * width, 8 * width, 3),
                dec1=_decoder(8 * width, 8 * width, stride=1, padding=0),
                dec2=_decoder(8 * width, 4 * width, stride=2, padding=1),
                dec3=_decoder(4 * width, 2 * width, stride=2, padding=1),
                dec4=_decoder(2 * width, width, stride=2, padding=1),
                dec5=nn.Sequential(nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh()),
            )
        )


def _encoder(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2, stride=1))


def _decoder(inputs: int, outputs: int, stride: int, padding: int) -> nn.Sequential:
    up = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
    return nn.Sequential(up, nn.ReLU(), nn.BatchNorm2d(outputs))
