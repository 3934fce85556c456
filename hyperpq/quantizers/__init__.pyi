from .additive import AdditiveQuantizer as AdditiveQuantizer
from .product import LorentzProductQuantizer as LorentzProductQuantizer
