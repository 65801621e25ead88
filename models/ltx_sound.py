"""Sound on its way into the audio VAE, and out of the vocoder."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from media.clip import SAMPLE_RATE, sound_samples

if TYPE_CHECKING:
    import numpy.typing as npt

_WINDOW = 1024
_FLOOR = 1e-5
_LOBES = 16
_ROLLOFF = 0.945


@torch.no_grad()  # type: ignore[untyped-decorator]
def latents_of(pipeline: Any, sound: npt.NDArray[np.float32], frames: int, fps: Fraction, device: str) -> torch.Tensor:
    """Audio latents (1, channels, length, mel bins), as long as those of a clip of so many frames.

    `sound` is float32 (2, n) at 48 kHz. The spectrogram is the one the audio VAE was trained on: 16 kHz, 1024 samples by
    steps of the VAE's hop, slaney mels, magnitudes, natural logarithm.
    """
    from transformers.audio_utils import mel_filter_bank

    vae = pipeline.audio_vae
    rate, hop, bins = vae.config.sample_rate, vae.config.mel_hop_length, vae.config.mel_bins
    wave = _slower(torch.from_numpy(np.array(sound)), SAMPLE_RATE // rate)
    bank = mel_filter_bank(_WINDOW // 2 + 1, bins, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    window = torch.hann_window(_WINDOW)
    spectrum = torch.stft(wave, _WINDOW, hop, window=window, pad_mode="reflect", return_complex=True).abs()
    mels = (torch.from_numpy(bank).float().T @ spectrum).clamp(min=_FLOOR).log().transpose(1, 2)[None]
    latents = vae.encode(mels.to(device, vae.dtype)).latent_dist.mode().float()
    length = round(frames / float(fps) * rate / hop / pipeline.audio_vae_temporal_compression_ratio)
    missing = length - latents.shape[2]
    if missing > 0:
        latents = torch.cat((latents, latents[:, :, -1:].expand(-1, -1, missing, -1)), 2)
    return latents[:, :, :length]


@torch.no_grad()  # type: ignore[untyped-decorator]
def sound_of(pipeline: Any, latents: torch.Tensor, frames: int, fps: Fraction) -> npt.NDArray[np.float32]:
    """What `latents` sound like: float32 (2, n) at 48 kHz, in -1…1, padded or cut to the clip's length.

    May hold NaN, which it keeps.
    """
    mels = pipeline.audio_vae.decode(latents.to(pipeline.audio_vae.dtype), return_dict=False)[0]
    wave = pipeline.vocoder(mels)[0].float().clamp(-1, 1)
    wanted = sound_samples(frames, fps)
    wave = torch.nn.functional.pad(wave[:, :wanted], (0, max(0, wanted - wave.shape[1])))
    made: npt.NDArray[np.float32] = wave.cpu().numpy()
    return made


def _slower(wave: torch.Tensor, times: int) -> torch.Tensor:
    """`wave`, shape (channels, n), at a rate so many `times` lower: a windowed sinc, then every so-manieth sample."""
    reach = _LOBES * times
    at = torch.arange(-reach, reach + 1, dtype=torch.float64) / times * _ROLLOFF
    taps = torch.sinc(at) * torch.hann_window(2 * reach + 3, periodic=False, dtype=torch.float64)[1:-1]
    taps = (taps / taps.sum()).float()[None, None]
    padded = torch.nn.functional.pad(wave[:, None], (reach, reach))
    return torch.nn.functional.conv1d(padded, taps, stride=times)[:, 0]
