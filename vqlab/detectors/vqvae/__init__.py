"""VQ-VAE: a vector-quantised autoencoder of images."""

from vqlab.detectors.vqvae.detector import VQVAE, decoder, encoder, random_crops
from vqlab.detectors.vqvae.settings import TERMS, Scoring, VQVAESettings

__all__ = ["TERMS", "VQVAE", "Scoring", "VQVAESettings", "decoder", "encoder", "random_crops"]
