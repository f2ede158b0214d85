"""The default preset's architecture and training step in PyTorch, for comparison.

The same mathematics as `vaejax.models.conv1d`, `models.linear`, `features` and `training`, less
augmentation: int16 clips in, one AdamW update and one of the averaged weights out. `same_model`
shows that it is the same: vaejax's weights give vaejax's loss and gradients.

Two layouts, of which the faster counts: "first" holds [batch, channels, frames], PyTorch's own
order; "last" holds [batch, frames, channels], where dense layers need no transposition and the
convolutions are two-dimensional ones of height 1 in channels-last memory.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import turns

LAYOUTS = ("first", "last")


class Features(nn.Module):
    """int16 clips [batch, num_samples] -> spectrograms [batch, num_bins, num_frames]."""

    ramp: torch.Tensor
    window: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, sizes: dict[str, Any], arrays: dict[str, np.ndarray]):
        super().__init__()
        self.sizes = sizes
        fade = sizes["fade_samples"]
        ramp = 0.5 * (1 + torch.cos(math.pi * torch.arange(1, fade + 1) / fade))
        self.register_buffer("ramp", ramp)
        self.register_buffer("window", torch.hann_window(sizes["n_fft"]))
        self.register_buffer("mean", torch.from_numpy(arrays["statistics/mean"])[:, None])
        self.register_buffer("scale", torch.from_numpy(arrays["statistics/scale"]))

    def forward(self, pcm, lengths):
        n_fft, fade = self.sizes["n_fft"], self.sizes["fade_samples"]
        waveform = pcm.float()
        is_cut = (lengths > self.sizes["num_samples"])[:, None]
        tail = waveform[:, -fade:] * torch.where(is_cut, self.ramp, 1.0)
        waveform = torch.cat([waveform[:, :-fade], tail], dim=1)
        waveform = waveform / waveform.abs().amax(1, keepdim=True).clamp_min(1.0)
        spectrum = torch.stft(
            waveform, n_fft, self.sizes["hop_length"], window=self.window, pad_mode="constant",
            return_complex=True,
        )  # fmt: skip
        power = torch.view_as_real(spectrum).square().sum(-1) * (4.0 / n_fft) ** 2
        return (power ** (0.5 * self.sizes["exponent"]) - self.mean) / self.scale


class Pointwise(nn.Module):
    """A dense layer at every frame."""

    def __init__(self, width: int, out: int, layout: str):
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(torch.zeros(out, width))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, h):
        if self.layout == "last":
            return F.linear(h, self.weight, self.bias)
        return F.conv1d(h, self.weight[:, :, None], self.bias)


class Conv(nn.Module):
    """A convolution over frames with the padding that Flax calls SAME."""

    def __init__(self, width: int, kernel_size: int, layout: str, stride: int = 1):
        super().__init__()
        self.layout, self.kernel_size, self.stride = layout, kernel_size, stride
        weight = torch.zeros(width, width, kernel_size)
        if layout == "last":
            weight = weight[:, :, None].to(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, h):
        frames = h.shape[1 if self.layout == "last" else 2]
        missing = max((-(-frames // self.stride) - 1) * self.stride + self.kernel_size - frames, 0)
        before, after = missing // 2, missing - missing // 2
        if self.layout == "first":
            if before != after:
                h, before = F.pad(h, (before, after)), 0
            return F.conv1d(h, self.weight, self.bias, self.stride, before)
        if before != after:
            h, before = F.pad(h, (0, 0, before, after)), 0
        # [batch, frames, channels] seen as [batch, channels, 1, frames]: channels-last memory.
        h = h.transpose(1, 2)[:, :, None]
        h = F.conv2d(h, self.weight, self.bias, (1, self.stride), (0, before))
        return h[:, :, 0].transpose(1, 2)


class Block(nn.Module):
    def __init__(self, width: int, kernel_size: int, layout: str):
        super().__init__()
        self.first = Conv(width, kernel_size, layout)
        self.second = Conv(width, kernel_size, layout)

    def forward(self, h):
        return h + self.second(gelu(self.first(gelu(h))))


class Perceptron(nn.Module):
    def __init__(self, width: int, depth: int, inputs: int, out: int):
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(inputs if i == 0 else width, width)
                                    for i in range(depth))  # fmt: skip
        self.out = nn.Linear(width, out)

    def forward(self, x):
        h = self.hidden[0](x)
        for layer in self.hidden[1:]:
            h = h + layer(gelu(h))
        return self.out(gelu(h).float())


def gelu(h):
    return F.gelu(h, approximate="tanh")


class VAE(nn.Module):
    """As `vaejax.models.conv1d.VAE`, on batches."""

    loc: torch.Tensor
    directions: torch.Tensor
    noise: torch.Tensor
    likelihood_scale: torch.Tensor
    posterior_scale: torch.Tensor
    posterior_logvar: torch.Tensor
    unit: torch.Tensor

    def __init__(self, sizes: dict[str, Any], arrays: dict[str, np.ndarray], layout: str):
        super().__init__()
        self.sizes, self.layout = sizes, layout
        width, kernel, latent = sizes["width"], sizes["kernel_size"], sizes["latent_dim"]
        directions, bins = sizes["num_directions"], sizes["num_bins"]
        self.frames = [sizes["num_frames"]]
        for _ in range(sizes["num_stages"]):
            self.frames.append(-(-self.frames[-1] // 2))
        last = self.frames[-1]
        stages = range(sizes["num_stages"])
        blocks = range(sizes["num_stages"] * sizes["num_blocks"])

        self.encoder_in = Pointwise(bins, width, layout)
        self.encoder_convs = nn.ModuleList(Conv(width, kernel, layout, 2) for _ in stages)
        self.encoder_blocks = nn.ModuleList(Block(width, kernel, layout) for _ in blocks)
        self.encoder_mean = nn.Linear(last * width, latent)
        self.encoder_logvar = nn.Linear(last * width, latent)
        self.decoder_in = nn.Linear(latent, last * width)
        self.decoder_convs = nn.ModuleList(Conv(width, kernel, layout) for _ in stages)
        self.decoder_blocks = nn.ModuleList(Block(width, kernel, layout) for _ in blocks)
        self.decoder_out = Pointwise(width, bins, layout)
        dense = (sizes["dense_width"], sizes["dense_depth"])
        self.dense_encoder = Perceptron(*dense, directions, 2 * latent)
        self.dense_decoder = Perceptron(*dense, latent, directions)
        self.log_sigma_offset = nn.Parameter(torch.zeros(()))

        loc, rows = arrays["linear/loc"], np.moveaxis(arrays["linear/basis"], -1, 0)
        if layout == "first":
            loc, rows = loc.T, rows.transpose(0, 2, 1)
        values = torch.from_numpy(arrays["linear/eigenvalues"])
        noise = torch.from_numpy(arrays["linear/noise"])
        self.register_buffer("loc", torch.from_numpy(np.ascontiguousarray(loc)))
        self.register_buffer("directions", torch.from_numpy(rows.reshape(directions, -1).copy()))
        self.register_buffer("noise", noise)
        scale = torch.sqrt(values[:latent] - noise)
        self.register_buffer("likelihood_scale", scale)
        self.register_buffer("posterior_scale", scale / values[:latent])
        self.register_buffer("posterior_logvar", torch.log(noise / values[:latent]))
        self.register_buffer("unit", torch.sqrt(values[latent - 1]))

    def encode(self, x):
        with torch.no_grad():
            centred = x - self.loc
            coordinates = centred.flatten(1) @ self.directions.T
        h = self.encoder_in(centred)
        per_stage = self.sizes["num_blocks"]
        for stage, conv in enumerate(self.encoder_convs):
            h = conv(h)
            for block in self.encoder_blocks[stage * per_stage : (stage + 1) * per_stage]:
                h = block(h)
        h = gelu(h).flatten(1).float()
        told = self.dense_encoder(coordinates / self.unit)
        dense_mean, dense_logvar = told.chunk(2, dim=1)
        latent = self.sizes["latent_dim"]
        mean = self.posterior_scale * coordinates[:, :latent]
        logvar = self.posterior_logvar
        mean = mean + torch.exp(0.5 * logvar) * (dense_mean + self.encoder_mean(h))
        return mean, logvar + dense_logvar + self.encoder_logvar(h)

    def decode(self, z):
        coordinates = F.pad(
            self.likelihood_scale * z, (0, len(self.directions) - z.shape[1])
        ) + self.unit * self.dense_decoder(z)
        straight = (coordinates @ self.directions).reshape(-1, *self.loc.shape)
        per_stage, time = self.sizes["num_blocks"], 1 if self.layout == "last" else 2
        h = self.decoder_in(z)
        shape = (self.frames[-1], self.sizes["width"])
        h = h.reshape(-1, *(shape if self.layout == "last" else shape[::-1]))
        for stage, size in enumerate(reversed(self.frames[:-1])):
            for block in self.decoder_blocks[stage * per_stage : (stage + 1) * per_stage]:
                h = block(h)
            h = h.repeat_interleave(2, dim=time).narrow(time, 0, size)
            h = self.decoder_convs[stage](h)
        return self.loc + straight + torch.sqrt(self.noise) * self.decoder_out(gelu(h)).float()

    def forward(self, x, eps):
        """Spectrograms [batch, num_bins, num_frames], draws [batch, latent_dim] -> mean negative
        ELBO in nats."""
        if self.layout == "last":
            x = x.transpose(1, 2)
        mean, logvar = self.encode(x)
        z = mean + torch.exp(0.5 * logvar) * eps
        log_sigma = 0.5 * torch.log(self.noise) + self.log_sigma_offset
        error = (x - self.decode(z)) * torch.exp(-log_sigma)
        constant = (log_sigma + 0.5 * math.log(2 * math.pi)) * x[0].numel()
        recon = 0.5 * error.square().flatten(1).sum(1) + constant
        kl = 0.5 * (mean.square() + torch.expm1(logvar) - logvar).sum(1)
        return (recon + kl).mean()


def names(model: VAE) -> dict[str, tuple[nn.Parameter, str]]:
    """Flax's name of each parameter -> the parameter, and how Flax's array becomes it."""
    found: dict[str, tuple[nn.Parameter, str]] = {"log_sigma_offset": (model.log_sigma_offset, "")}

    def add(prefix: str, layer: Any, kind: str) -> None:
        found[f"{prefix}/kernel"] = (layer.weight, kind)
        found[f"{prefix}/bias"] = (layer.bias, "bins" if kind == "unflatten" else "")

    add("encoder/Dense_0", model.encoder_in, "dense")
    add("encoder/Posterior_0/mean", model.encoder_mean, "flatten")
    add("encoder/Posterior_0/logvar", model.encoder_logvar, "flatten")
    add("decoder/Dense_0", model.decoder_in, "unflatten")
    add("decoder/Dense_1", model.decoder_out, "dense")
    for half in ("encoder", "decoder"):
        for i, conv in enumerate(getattr(model, f"{half}_convs")):
            add(f"{half}/Conv_{i}", conv, "conv")
        for i, block in enumerate(getattr(model, f"{half}_blocks")):
            add(f"{half}/Block_{i}/Conv_0", block.first, "conv")
            add(f"{half}/Block_{i}/Conv_1", block.second, "conv")
        dense = getattr(model, f"dense_{half}")
        for i, layer in enumerate([*dense.hidden, dense.out]):
            add(f"dense_{half}/Dense_{i}", layer, "dense")
    return found


def converted(array: np.ndarray, kind: str, model: VAE) -> torch.Tensor:
    """An array of Flax's in the order that the parameter has it."""
    frames, width = model.frames[-1], model.sizes["width"]
    first = model.layout == "first"
    if kind == "conv":  # [taps, in, out] -> [out, in, taps]
        array = array.transpose(2, 1, 0)
        array = array if first else array[:, :, None]
    elif kind == "flatten":  # [frames * width, out] -> [out, ...]
        array = array.reshape(frames, width, -1)
        array = array.transpose(2, 1, 0) if first else array.transpose(2, 0, 1)
        array = array.reshape(len(array), -1)
    elif kind in ("unflatten", "bins"):  # [in, frames * width] -> [..., in]
        array = array.reshape(-1, frames, width)
        array = array.transpose(2, 1, 0) if first else array.transpose(1, 2, 0)
        array = array.reshape(frames * width, -1)
        array = array[:, 0] if kind == "bins" else array
    elif kind == "dense":
        array = array.T
    return torch.from_numpy(np.array(array, order="C"))


def load(model: VAE, arrays: dict[str, np.ndarray]) -> None:
    """Takes over weights: "params/<Flax's name>" -> array. All of them, or it fails."""
    given = {key.removeprefix("params/") for key in arrays if key.startswith("params/")}
    wanted = names(model)
    assert given == set(wanted), f"not the same model: {given ^ set(wanted)}"
    with torch.no_grad():
        for name, (parameter, kind) in wanted.items():
            parameter.copy_(converted(arrays[f"params/{name}"], kind, model))


def same_model(sizes: dict[str, Any], arrays: dict[str, np.ndarray], layout: str) -> dict[str, Any]:
    """Relative differences from vaejax's spectrograms, loss and gradients at the same weights.

    Args:
      arrays: of `benchmarks.peers.own.reference`.
    """
    features, model = Features(sizes, arrays), VAE(sizes, arrays, layout)
    load(model, arrays)
    x = features(torch.from_numpy(arrays["pcm"]), torch.from_numpy(arrays["lengths"]))
    loss = model(x, torch.from_numpy(arrays["eps"]))
    loss.backward()

    def off(got: torch.Tensor, wanted: torch.Tensor) -> float:
        return float((got - wanted).norm() / wanted.norm())

    gradients = {}
    for name, (parameter, kind) in names(model).items():
        assert parameter.grad is not None, name
        gradients[name] = off(parameter.grad, converted(arrays[f"grads/{name}"], kind, model))
    worst = max(gradients, key=lambda name: gradients[name])
    return {
        "spectrogram": off(x.transpose(1, 2), torch.from_numpy(arrays["spectrogram"])),
        "loss": abs(float(loss.detach()) / float(arrays["loss"]) - 1),
        "gradients": gradients[worst],
        "worst_gradient": worst,
    }


class Trainer:
    """The whole step on clips that live on the device."""

    def __init__(self, sizes, arrays, clips, lengths, layout: str, *, compiled: bool, device: str):
        self.sizes, self.device = sizes, device
        self.clips = torch.from_numpy(clips).to(device)
        self.lengths = torch.from_numpy(lengths).to(device)
        self.features = Features(sizes, arrays).to(device)
        model = VAE(sizes, arrays, layout)
        load(model, arrays)
        self.model = model.to(device)
        self.params = list(self.model.parameters())
        self.ema = [p.detach().clone() for p in self.params]
        self.optimizer = torch.optim.AdamW(
            self.params, lr=1e-5, betas=(0.9, 0.99), weight_decay=sizes["weight_decay"], fused=True
        )
        self.loss_of = torch.compile(self._loss_of) if compiled else self._loss_of
        self.generator = torch.Generator(device).manual_seed(0)

    def _loss_of(self, pcm, lengths, eps):
        x = self.features(pcm, lengths)
        bf16 = self.sizes["compute_dtype"] == "bfloat16"
        with torch.autocast(self.device, torch.bfloat16, enabled=bf16):
            return self.model(x, eps)

    def step(self):
        index = torch.randint(
            len(self.clips), (self.sizes["batch_size"],), generator=self.generator,
            device=self.device,
        )  # fmt: skip
        eps = torch.randn(
            len(index), self.sizes["latent_dim"], generator=self.generator, device=self.device
        )
        loss = self.loss_of(self.clips[index], self.lengths[index], eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, self.sizes["clip_norm"], foreach=True)
        self.optimizer.step()
        torch._foreach_lerp_(self.ema, list[torch.Tensor](self.params), 1 - self.sizes["ema_decay"])
        return loss

    def steps(self, num: int) -> dict[str, Any]:
        for _ in range(num):
            loss = self.step()
        return {"loss": float(loss.detach())}  # waits for the device


def prepare(options: dict[str, Any]) -> tuple[dict[str, Any], turns.Tasks]:
    """The variants, after each has shown that it is vaejax's model."""
    sizes = options["sizes"]
    with np.load(options["reference"]) as file:
        arrays = dict(file)
    clips, lengths = np.load(options["clips"]), np.load(options["lengths"])
    differences = {layout: same_model(sizes, arrays, layout) for layout in LAYOUTS}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        # What JAX does by default there.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    tasks: turns.Tasks = {}
    for compiled in (False, True) if options["compile"] else (False,):
        for layout in LAYOUTS:
            trainer = Trainer(
                sizes, arrays, clips, lengths, layout, compiled=compiled, device=device
            )
            how = "torch.compile" if compiled else "eager"
            tasks[f"PyTorch {how}, channels {layout}"] = partial(trainer.steps, options["steps"])
    about = {
        "version": torch.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
        "relative_differences_from_vaejax": differences,
    }
    return about, tasks


if __name__ == "__main__":
    turns.serve(prepare)
