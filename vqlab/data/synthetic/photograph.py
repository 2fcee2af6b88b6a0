"""Camera of the synthetic set: render a surface with light, lens and sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from vqlab.data.synthetic.surface import GRID, PIXEL, SIDE, UNIT, Array, Surface, clouds


@dataclass(frozen=True)
class Camera:
    """Conditions of one exposure; one camera renders a part without and with its defect."""

    light: tuple[float, float, float]
    """Unit vector towards the light (x right, y down, z towards the viewer)."""
    ambient: float
    shine: float
    occlusion: float
    """Depth (rendered pixels) at which a hollow loses about two thirds of the ambient light."""
    exposure: Array
    """(256, 256, 1): gain, with uneven light and vignetting."""
    tint: Array
    """(3,) white balance."""
    blur: float
    noise: Array
    """(256, 256, 3) float32: sensor noise, standard deviation 1 at mid grey."""

    def render(self, surface: Surface) -> Array:
        """Return the noise-free image (256, 256, 3) float32 in [0, 1]."""
        height = cv2.GaussianBlur(surface.height * (UNIT / PIXEL), (5, 5), 0.7)  # in pixels
        slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
        slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
        x, y, z = self.light
        towards = z - x * slope_x
        towards -= y * slope_y
        slope_x *= slope_x
        slope_y *= slope_y
        slope_x += slope_y
        slope_x += 1
        length = 1 / np.sqrt(slope_x)
        glint = towards + 1  # the half vector between light and viewer is (x, y, z + 1)
        glint *= length / float(np.sqrt(x * x + y * y + (z + 1) ** 2))
        np.maximum(glint, 0, out=glint)
        for _ in range(4):  # to the power of 16
            glint *= glint
        np.maximum(towards, 0, out=towards)
        towards *= length
        lit = 1 - np.float32(0.85) * self._shadow(height)
        towards *= lit * (1 - self.ambient)
        glint *= lit * (0.5 * self.shine)
        glint *= surface.gloss
        diffuse = self._openness(height) * self.ambient
        diffuse += towards
        diffuse += glint
        tones = [tone * diffuse + glint for tone in surface.albedo]
        small = [cv2.resize(tone, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for tone in tones]
        picture = cv2.merge(small) * self.exposure
        sharp = cv2.GaussianBlur(picture, (0, 0), self.blur) * self.tint
        # Soft saturation instead of clipping, as in a sensor's response curve.
        return np.asarray(np.where(sharp > 0.8, 1 - 0.2 * np.exp((0.8 - sharp) / 0.2), sharp))

    def expose(self, picture: Array) -> Array:
        """Return the image with sensor noise, which grows with brightness: (256, 256, 3) uint8."""
        noisy = picture + self.noise * (0.3 + 0.7 * np.sqrt(np.clip(picture, 0, 1)))
        return np.asarray(np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8))

    def _openness(self, height: Array) -> Array:
        """Return the ambient light that reaches each point (S, S): small in hollows."""
        small = cv2.resize(height, (GRID // 4, GRID // 4), interpolation=cv2.INTER_AREA)
        rim = sum(cv2.GaussianBlur(small, (0, 0), sigma) for sigma in (1.5, 4.5)) / 2
        depth = cv2.resize(rim, (GRID, GRID), interpolation=cv2.INTER_LINEAR) - height
        np.maximum(depth, 0, out=depth)
        return np.asarray(np.exp(depth * (-1 / self.occlusion)))

    def _shadow(self, height: Array) -> Array:
        """Return the shadow (S, S): 1 behind taller points towards the light, with a soft edge."""
        side = GRID // 2
        small = cv2.resize(height, (side, side), interpolation=cv2.INTER_AREA)
        x, y, z = self.light
        flat = float(np.hypot(x, y))
        rise = z / flat
        deepest = np.full_like(small, -1e3)
        for step in np.geomspace(1.2, 18, 8):
            move = np.array([[1, 0, -x / flat * step], [0, 1, -y / flat * step]])
            taller = cv2.warpAffine(small, move, (side, side), borderMode=cv2.BORDER_REPLICATE)
            deepest = np.maximum(deepest, taller - small - step * 2 * rise)
        soft = cv2.GaussianBlur(np.clip(deepest / 3, 0, 1), (0, 0), 1.0)
        return np.asarray(cv2.resize(soft, (GRID, GRID), interpolation=cv2.INTER_LINEAR))


def random_camera(rng: Generator, azimuth: float, spread: float, noise: float) -> Camera:
    """Return a camera with random imperfections and light from `azimuth` ± `spread` (rad)."""
    turn = azimuth + spread * rng.uniform(-1, 1)
    tilt = rng.uniform(0.85, 1.1)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    uneven = 0.05 * clouds(rng, 2, SIDE)
    uneven = uneven + rng.uniform(-0.06, 0.06) * x + rng.uniform(-0.06, 0.06) * y
    fall = 1 - rng.uniform(0.03, 0.14) * (x**2 + y**2)
    gain = np.exp(rng.normal(0, 0.07))
    return Camera(
        light=(
            math.cos(turn) * math.cos(tilt),
            math.sin(turn) * math.cos(tilt),
            math.sin(tilt),
        ),
        ambient=rng.uniform(0.42, 0.55),
        shine=rng.uniform(0.7, 1.1),
        occlusion=rng.uniform(15, 21),
        exposure=(gain * fall * (1 + uneven)).astype(np.float32)[..., None],
        tint=(1 + rng.normal(0, 0.015, 3)).astype(np.float32),
        blur=rng.uniform(0.35, 0.75),
        noise=rng.standard_normal((SIDE, SIDE, 3), dtype=np.float32)
        * np.float32(noise * rng.uniform(0.7, 1.4)),
    )
