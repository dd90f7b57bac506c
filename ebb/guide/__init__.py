"""Guides turn a denoiser into another one, and so compose in any order with each other and with every solver."""
