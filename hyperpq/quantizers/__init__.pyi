from .additive import AdditiveQuantizer as AdditiveQuantizer
from .base import Quantizer as Quantizer
from .flat_pq import FlatProductQuantizer as FlatProductQuantizer
from .product import LorentzProductQuantizer as LorentzProductQuantizer
from .product import ProductQuantizer as ProductQuantizer
