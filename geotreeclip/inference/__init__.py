"""Ask a model: which taxa stand at a place, and where do places and taxa lie in the shared space."""

from geotreeclip.inference.classifier import Classifier
from geotreeclip.inference.one_call import classify, load

__all__ = ["Classifier", "classify", "load"]
