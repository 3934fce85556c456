from .additive import AdditiveCodec as AdditiveCodec
from .base import Codec as Codec
from .config import AdditiveConfig as AdditiveConfig
from .config import CodecConfig as CodecConfig
from .config import PQConfig as PQConfig
from .hihpq import HiHPQCodec as HiHPQCodec
from .learned import LearnedCodec as LearnedCodec
from .pq import PQCodec as PQCodec
