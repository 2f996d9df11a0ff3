"""`clip:` models worth having."""

from __future__ import annotations

from mmsearch.encoders.family import KnownModel, Recall

OPEN_CLIP = (
    "https://github.com/mlfoundations/open_clip/blob/main/docs/openclip_retrieval_results.csv"
)
SIGLIP2 = (
    "https://github.com/google-research/big_vision/blob/main/big_vision/configs/proj/image_text/"
    "README_siglip2.md"
)
MOBILE_CLIP = "https://github.com/apple/ml-mobileclip/tree/main/results"

SMALL = "clip:ViT-B-32/laion2b_s34b_b79k"
"""The first to try: small, quick on any processor, free to use, in one repository."""

RECOMMENDED: tuple[KnownModel, ...] = (
    KnownModel(
        "clip:ViT-SO400M-16-SigLIP2-384/webli",
        repository="timm/ViT-SO400M-16-SigLIP2-384",
        about="the best here, in many languages; for a GPU",
        megabytes=4544,
        dim=1152,
        licence="apache-2.0",
        source=SIGLIP2,
        recall={"coco": Recall(56.0, None)},
        reads="timm/ViT-SO400M-16-SigLIP2-384",
        weights_in_listing=False,
    ),
    KnownModel(
        "clip:ViT-H-14-378-quickgelu/dfn5b",
        repository="apple/DFN5B-CLIP-ViT-H-14-378",
        about="very good, slow; for a GPU, for research",
        megabytes=3947,
        dim=1024,
        licence="apple-amlr",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(82.0, 96.0), "coco": Recall(55.6, 79.2)},
        weights_in_listing=False,
    ),
    KnownModel(
        "clip:ViT-L-16-SigLIP2-256/webli",
        repository="timm/ViT-L-16-SigLIP2-256",
        about="very good, in many languages; for a GPU",
        megabytes=3526,
        dim=1024,
        licence="apache-2.0",
        source=SIGLIP2,
        recall={"coco": Recall(54.7, None)},
        reads="timm/ViT-L-16-SigLIP2-256",
        weights_in_listing=False,
    ),
    KnownModel(
        "clip:ViT-SO400M-14-SigLIP-384/webli",
        repository="timm/ViT-SO400M-14-SigLIP-384",
        about="very good; for a GPU",
        megabytes=3510,
        dim=1152,
        licence="apache-2.0",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(83.0, 96.1), "coco": Recall(54.2, 76.8)},
        reads="timm/ViT-B-16-SigLIP",
    ),
    KnownModel(
        "clip:ViT-B-16-SigLIP2/webli",
        repository="timm/ViT-B-16-SigLIP2",
        about="good at a middling size, in many languages",
        megabytes=1501,
        dim=768,
        licence="apache-2.0",
        source=SIGLIP2,
        recall={"coco": Recall(52.1, None)},
        reads="timm/ViT-B-16-SigLIP2",
        weights_in_listing=False,
    ),
    KnownModel(
        "clip:ViT-H-14/laion2b_s32b_b79k",
        repository="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        about="good, slow; for a GPU",
        megabytes=3944,
        dim=1024,
        licence="mit",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(77.6, 94.2), "coco": Recall(49.5, 73.4)},
        weights_in_listing=False,
    ),
    KnownModel(
        "clip:MobileCLIP2-S2/dfndr2b",
        repository="timm/MobileCLIP2-S2-OpenCLIP",
        about="good for its size, quick; for research",
        megabytes=398,
        dim=512,
        licence="apple-amlr",
        source=MOBILE_CLIP,
        recall={"flickr30k": Recall(74.8, 92.9), "coco": Recall(48.8, 73.8)},
    ),
    KnownModel(
        "clip:ViT-B-16-SigLIP/webli",
        repository="timm/ViT-B-16-SigLIP",
        about="good at a middling size",
        megabytes=813,
        dim=768,
        licence="apache-2.0",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(74.7, 92.3), "coco": Recall(47.8, 72.4)},
        reads="timm/ViT-B-16-SigLIP",
    ),
    KnownModel(
        "clip:EVA02-L-14/merged2b_s4b_b131k",
        repository="timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k",
        about="good, slow; a small file, in half precision",
        megabytes=856,
        dim=768,
        licence="mit",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(77.3, 93.7), "coco": Recall(47.5, 71.2)},
    ),
    KnownModel(
        "clip:ViT-L-14/datacomp_xl_s13b_b90k",
        repository="laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        about="good; slow without a GPU",
        megabytes=1710,
        dim=768,
        licence="mit",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(73.4, 91.7), "coco": Recall(45.7, 70.0)},
    ),
    KnownModel(
        "clip:MobileCLIP2-S0/dfndr2b",
        repository="timm/MobileCLIP2-S0-OpenCLIP",
        about="the smallest, very quick; for research",
        megabytes=300,
        dim=512,
        licence="apple-amlr",
        source=MOBILE_CLIP,
        recall={"flickr30k": Recall(69.2, 89.9), "coco": Recall(43.7, 70.0)},
    ),
    KnownModel(
        "clip:ViT-B-32-256/datacomp_s34b_b86k",
        repository="laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
        about="small and quick, with sharper eyes than the next",
        megabytes=605,
        dim=512,
        licence="mit",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(64.9, 87.2), "coco": Recall(39.9, 65.4)},
    ),
    KnownModel(
        SMALL,
        repository="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        about="small and quick: a good beginning",
        megabytes=605,
        dim=512,
        licence="mit",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(66.8, 88.4), "coco": Recall(39.3, 65.4)},
        weights_in_listing=False,
    ),
    KnownModel(
        "clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
        repository="laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
        about="quick on photos, in many languages",
        megabytes=1460,
        dim=512,
        licence="mit",
        source=OPEN_CLIP,
        recall={"flickr30k": Recall(64.5, 86.3), "coco": Recall(37.8, 63.4)},
        reads="xlm-roberta-base",
    ),
)
"""Best first: by recall at 1 on COCO."""

BY_NAME = {model.name: model for model in RECOMMENDED}
