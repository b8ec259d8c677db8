"""LadaGAN 64 px and its training step as one would write them down: the loop that ours is timed and checked against.

Why it exists: "fast" needs something to be faster than. This is the authors' PyTorch port in style: images [b, c, h, w]
in torch's default memory, one linear layer for q, k and v, `PixelShuffle`, DiffAugment as published (three colour
functions, translation by advanced indexing into a padded copy), `torch.optim.Adam` as it comes, an EMA loop over
parameters. What the port does well is done well here too: the discriminator is frozen while the generator learns, the
generator's images are detached while the discriminator does, no anomaly detection, no synchronisation.

Source, read for facts, the code is ours (MIT):
https://github.com/milmor/LadaGAN/tree/eb3ed9c53c4f4b2775aaee034d991075f670af0d, `pytorch/{model,train,utils}.py`; and
https://github.com/mit-han-lab/data-efficient-gans, `DiffAugment_pytorch.py` (BSD 2-clause), with LadaGAN's constants.

Differences, so that it computes what `models.ladagan` does: batch norm with Keras' constants, layer norm eps 1e-6 and
Adam eps 1e-7; the latents are drawn before the augmentations; gradient norms, which the port logs, are not computed
(they are no part of the mathematics and would slow this loop down); the port's in-place `x += position` is `x + ...`.
Its `PixelShuffle` orders channels (channel, row, column) and ours (row, column, channel), so `weights_from_ours`
permutes; the generator saves buffers of none, so an EMA of parameters is an EMA of everything.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from torch.nn import functional


class AdditiveAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_score = nn.Linear(dim, heads)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        alpha = (self.to_score(q) * self.scale).permute(0, 2, 1).softmax(dim=-1)
        q, k, v = (t.reshape(b, n, self.heads, c // self.heads).permute(0, 2, 1, 3) for t in (q, k, v))
        global_q = torch.einsum("bhn,bhnd->bhd", alpha, q).unsqueeze(2)
        r = v * (k * global_q)
        return self.to_out(r.permute(0, 2, 1, 3).reshape(b, n, c))


class SelfModulatedLayerNorm(nn.Module):
    def __init__(self, dim, latent_dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.hidden = nn.Sequential(nn.Linear(latent_dim, dim), nn.ReLU())
        self.gamma = nn.Linear(dim, dim)
        self.beta = nn.Linear(dim, dim)

    def forward(self, x, z):
        h = self.hidden(z)
        return self.norm(x) * self.gamma(h).unsqueeze(1) + self.beta(h).unsqueeze(1)


def mlp(dim, hidden_dim):
    return nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))


class GeneratorBlock(nn.Module):
    def __init__(self, dim, latent_dim, heads, mlp_dim):
        super().__init__()
        self.ln_1 = SelfModulatedLayerNorm(dim, latent_dim)
        self.attn = AdditiveAttention(dim, heads)
        self.ln_2 = SelfModulatedLayerNorm(dim, latent_dim)
        self.mlp = mlp(dim, mlp_dim)

    def forward(self, x, z):
        x = self.attn(self.ln_1(x, z)) + x
        return self.mlp(self.ln_2(x, z))


class DiscriminatorBlock(nn.Module):
    def __init__(self, dim, heads, mlp_dim):
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = AdditiveAttention(dim, heads)
        self.ln_2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp(dim, mlp_dim)

    def forward(self, x):
        x = self.attn(self.ln_1(x)) + x
        return self.mlp(self.ln_2(x)) + x


def to_grid(x, side):
    """[b, n, c] → [b, c, h, w]."""
    return x.permute(0, 2, 1).reshape(x.shape[0], x.shape[2], side, side)


def to_tokens(x):
    """[b, c, h, w] → [b, n, c]."""
    return x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)


class Generator(nn.Module):
    def __init__(self, resolution, dims, latent_dim, heads, mlp_dim):
        super().__init__()
        self.dims = dims
        self.init = nn.Linear(latent_dim, 64 * dims[0], bias=False)
        self.pos_64 = nn.Parameter(torch.zeros(1, 64, dims[0]))
        self.block_64 = GeneratorBlock(dims[0], latent_dim, heads, mlp_dim)
        self.conv_256 = nn.Conv2d(dims[0] // 4, dims[1], 3, 1, 1)
        self.pos_256 = nn.Parameter(torch.zeros(1, 256, dims[1]))
        self.block_256 = GeneratorBlock(dims[1], latent_dim, heads, mlp_dim)
        self.conv_1024 = nn.Conv2d(dims[1] // 4, dims[2], 3, 1, 1)
        self.pos_1024 = nn.Parameter(torch.zeros(1, 1024, dims[2]))
        self.block_1024 = GeneratorBlock(dims[2], latent_dim, heads, mlp_dim)
        self.patch_size = resolution // 32
        self.to_rgb = nn.Conv2d(dims[2] // self.patch_size**2, 3, 3, 1, 1)

    def forward(self, z):
        x = self.init(z).reshape(z.shape[0], 64, -1)
        x = self.block_64(x + self.pos_64, z)
        x = self.conv_256(functional.pixel_shuffle(to_grid(x, 8), 2))
        x = self.block_256(to_tokens(x) + self.pos_256, z)
        x = self.conv_1024(functional.pixel_shuffle(to_grid(x, 16), 2))
        x = self.block_1024(to_tokens(x) + self.pos_1024, z)
        x = to_grid(x, 32)
        if self.patch_size != 1:
            x = functional.pixel_shuffle(x, self.patch_size)
        return self.to_rgb(x)


def batch_norm(dim):
    return nn.BatchNorm2d(dim, eps=1e-3, momentum=0.01)


class DownBlock(nn.Module):
    def __init__(self, dim_in, dim_out):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(dim_in, dim_out, 3, 2, 1, bias=False),
            batch_norm(dim_out),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(dim_out, dim_out, 3, 1, 1, bias=False),
            batch_norm(dim_out),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.direct = nn.Sequential(
            nn.AvgPool2d(2, 2),
            nn.Conv2d(dim_in, dim_out, 1, 1, 0, bias=False),
            batch_norm(dim_out),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def forward(self, x):
        return (self.main(x) + self.direct(x)) / 2


class Discriminator(nn.Module):
    def __init__(self, dims, out_dims, heads, mlp_dim):
        super().__init__()
        self.inp_conv = nn.Sequential(nn.Conv2d(3, dims[0], 3, 1, 1, bias=False), nn.LeakyReLU(0.2))
        self.encoder = nn.ModuleList(DownBlock(dims[i], dims[i + 1]) for i in range(len(dims) - 1))
        self.pos_256 = nn.Parameter(torch.zeros(1, 256, dims[-1]))
        self.block_256 = DiscriminatorBlock(dims[-1], heads, mlp_dim)
        self.conv_256 = nn.Conv2d(4 * dims[-1], out_dims[0], 3, 1, 1)
        self.logits = nn.Sequential(
            nn.Conv2d(out_dims[0], out_dims[1], 1, 1, 0, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(out_dims[1], 1, 4, 1, 0, bias=False),
        )

    def forward(self, x):
        x = self.inp_conv(x)
        for down in self.encoder:
            x = down(x)
        x = self.block_256(to_tokens(x) + self.pos_256)
        x = functional.pixel_unshuffle(to_grid(x, 16), 2)
        return self.logits(self.conv_256(x)).view(x.shape[0], -1)


# DiffAugment, as published


def rand_brightness(x):
    return x + (torch.rand(x.size(0), 1, 1, 1, dtype=x.dtype, device=x.device) - 0.5)


def rand_saturation(x):
    x_mean = x.mean(dim=1, keepdim=True)
    return (x - x_mean) * (torch.rand(x.size(0), 1, 1, 1, dtype=x.dtype, device=x.device) * 2) + x_mean


def rand_contrast(x):
    x_mean = x.mean(dim=[1, 2, 3], keepdim=True)
    return (x - x_mean) * (torch.rand(x.size(0), 1, 1, 1, dtype=x.dtype, device=x.device) + 0.5) + x_mean


def rand_translation(x, ratio=0.125):
    b, _, h, w = x.shape
    shift_h, shift_w = int(h * ratio + 0.5), int(w * ratio + 0.5)
    translation_h = torch.randint(-shift_h, shift_h + 1, size=[b, 1, 1], device=x.device)
    translation_w = torch.randint(-shift_w, shift_w + 1, size=[b, 1, 1], device=x.device)
    grid_batch, grid_h, grid_w = torch.meshgrid(
        torch.arange(b, device=x.device),
        torch.arange(h, device=x.device),
        torch.arange(w, device=x.device),
        indexing="ij",
    )
    grid_h = torch.clamp(grid_h + translation_h + 1, 0, h + 1)
    grid_w = torch.clamp(grid_w + translation_w + 1, 0, w + 1)
    x_pad = functional.pad(x, [1, 1, 1, 1, 0, 0, 0, 0])
    return x_pad.permute(0, 2, 3, 1).contiguous()[grid_batch, grid_h, grid_w].permute(0, 3, 1, 2).contiguous()


def diff_augment(x):
    for change in (rand_brightness, rand_saturation, rand_contrast, rand_translation):
        x = change(x)
    return x


# Losses and the step


def requires_grad(model, flag):
    for parameter in model.parameters():
        parameter.requires_grad = flag


@torch.no_grad()
def update_ema(ema, model, decay):
    for averaged, parameter in zip(ema.parameters(), model.parameters(), strict=True):
        averaged.mul_(decay).add_(parameter, alpha=1 - decay)


class PlainTrainer:
    """The port's loop body, one method per network; both return the losses."""

    def __init__(self, generator, discriminator, recipe, *, latent_dim, precision="fp32"):
        self.generator, self.discriminator = generator.train(), discriminator.train()
        self.ema = deepcopy(generator).eval()
        requires_grad(self.ema, False)
        self.recipe, self.latent_dim, self.precision = recipe, latent_dim, precision
        adam = {"betas": recipe.adam_betas, "eps": recipe.adam_eps}
        self.g_opt = torch.optim.Adam(generator.parameters(), lr=recipe.generator_lr, **adam)
        self.d_opt = torch.optim.Adam(discriminator.parameters(), lr=recipe.discriminator_lr, **adam)

    def autocast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def step(self, real):
        return self.discriminator_step(real) | self.generator_step(real.size(0))

    def discriminator_step(self, real):
        generator, discriminator = self.generator, self.discriminator
        requires_grad(generator, False)
        requires_grad(discriminator, True)
        with self.autocast():
            z = torch.randn([real.size(0), self.latent_dim])
            fake = generator(z).detach().float()
            real_seen = diff_augment(real.clone().requires_grad_(True))
            fake_logits = discriminator(diff_augment(fake)).float()
            real_logits = discriminator(real_seen).float()
            real_loss = functional.softplus(-real_logits).mean()
            fake_loss = functional.softplus(fake_logits).mean()
        (gradient,) = torch.autograd.grad(outputs=real_logits.sum(), inputs=real_seen, create_graph=True)
        r1 = self.recipe.objective.r1_weight * gradient.pow(2).reshape(gradient.size(0), -1).sum(1).mean()
        loss = real_loss + fake_loss + r1
        discriminator.zero_grad()
        loss.backward()
        self.d_opt.step()
        return {"real": real_loss.detach(), "fake": fake_loss.detach(), "r1": r1.detach()}

    def generator_step(self, batch_size):
        generator, discriminator = self.generator, self.discriminator
        requires_grad(generator, True)
        requires_grad(discriminator, False)
        with self.autocast():
            z = torch.randn([batch_size, self.latent_dim])
            logits = discriminator(diff_augment(generator(z).float())).float()
            loss = functional.softplus(-logits).mean()
        generator.zero_grad()
        loss.backward()
        self.g_opt.step()
        update_ema(self.ema, generator, self.recipe.ema_decay)
        return {"generator": loss.detach()}


# Weights


def shuffled(x, dim, factor):
    """Channels along `dim` from our order (row, column, channel) to PixelShuffle's (channel, row, column)."""
    return x.unflatten(dim, (factor**2, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def attention_weights(ours, old, new):
    for kind in ("weight", "bias"):
        yield f"{new}.to_qkv.{kind}", torch.cat([ours[f"{old}.to_{name}.{kind}"] for name in "qkv"])
        yield f"{new}.to_score.{kind}", ours[f"{old}.to_score.{kind}"]
        yield f"{new}.to_out.{kind}", ours[f"{old}.to_out.{kind}"]


def mlp_weights(ours, old, new, factor=1):
    for kind in ("weight", "bias"):
        yield f"{new}.0.{kind}", ours[f"{old}.0.{kind}"]
        yield f"{new}.2.{kind}", shuffled(ours[f"{old}.2.{kind}"], 0, factor)


def generator_from_ours(ours, resolution):
    """Our Generator (three stages, no decoder) → the plain one with the same weights."""
    weights = dict(ours.state_dict())
    dims = [position.weight.shape[1] for position in ours.positions]
    attention = ours.blocks[0].attention
    plain = Generator(
        resolution, dims, ours.to_first_tokens.in_features, attention.num_heads, ours.blocks[0].mlp[0].out_features
    )
    new = {"init.weight": weights["to_first_tokens.weight"]}
    for stage, (name, factor) in enumerate([("64", 2), ("256", 2), ("1024", plain.patch_size)]):
        old = f"blocks.{stage}"
        new[f"pos_{name}"] = weights[f"positions.{stage}.weight"].unsqueeze(0)
        new |= dict(attention_weights(weights, f"{old}.attention", f"block_{name}.attn"))
        new |= dict(mlp_weights(weights, f"{old}.mlp", f"block_{name}.mlp", factor))
        for norm, plain_norm in (("norm_attention", "ln_1"), ("norm_mlp", "ln_2")):
            for part, plain_part in (("hidden", "hidden.0"), ("to_scale", "gamma"), ("to_shift", "beta")):
                for kind in ("weight", "bias"):
                    new[f"block_{name}.{plain_norm}.{plain_part}.{kind}"] = weights[f"{old}.{norm}.{part}.{kind}"]
    for kind in ("weight", "bias"):
        new[f"conv_256.{kind}"] = weights[f"up_convs.0.{kind}"]
        new[f"conv_1024.{kind}"] = weights[f"up_convs.1.{kind}"]
        new[f"to_rgb.{kind}"] = weights[f"to_rgb.{kind}"]
    plain.load_state_dict(new)
    return plain


def discriminator_from_ours(ours):
    """Our Discriminator with additive attention → the plain one with the same weights."""
    weights = dict(ours.state_dict())
    dims = [ours.from_rgb[0].out_channels, *(block.direct[1].out_channels for block in ours.encoder)]
    out_dims = [ours.head[0].out_channels, ours.head[1].out_channels]
    plain = Discriminator(dims, out_dims, ours.block.attention.num_heads, ours.block.mlp[0].out_features)
    new = {"inp_conv.0.weight": weights["from_rgb.0.weight"], "pos_256": weights["position.weight"].unsqueeze(0)}
    new |= {name: weight for name, weight in weights.items() if name.startswith("encoder.")}
    new |= dict(attention_weights(weights, "block.attention", "block_256.attn"))
    new |= dict(mlp_weights(weights, "block.mlp", "block_256.mlp"))
    for kind in ("weight", "bias"):
        new[f"block_256.ln_1.{kind}"] = weights[f"block.norm_attention.{kind}"]
        new[f"block_256.ln_2.{kind}"] = weights[f"block.norm_mlp.{kind}"]
    new["conv_256.weight"] = shuffled(weights["head.0.weight"], 1, 2)
    new["conv_256.bias"] = weights["head.0.bias"]
    new["logits.0.weight"], new["logits.2.weight"] = weights["head.1.weight"], weights["head.3.weight"]
    plain.load_state_dict(new)
    return plain


def trainer_from_ours(gan, recipe, *, resolution, precision="fp32"):
    """A PlainTrainer that starts from the weights of our `gan`; its optimisers are fresh."""
    return PlainTrainer(
        generator_from_ours(gan.generator, resolution),
        discriminator_from_ours(gan.discriminator),
        recipe,
        latent_dim=gan.latent_dim,
        precision=precision,
    )
