"""The journal's MESSAGE_IDs: random 128-bit numbers by the event that they stand for (journalctl --new-id128).

They stay as they are: alerts key on them. kmodd.catalog explains each, and kmodd(8) lists them.
"""

from __future__ import annotations

MESSAGE_IDS = {
    "kmodd started": "9e717a7f95e94cf6a58efd47fe79bb47",
    "kmodd cannot run": "7905577451a545d09a1558dea4f27959",
    "settings refused": "b1207db397ee44969083df22a793d63f",
    "look failed": "fe5e5adfcd714f92a76ad0ac0e124b51",
    "signing key generated": "cfa092ee07734498a840b575a8f687f7",
    "kernel appeared": "27a9594dc69b437ea2bd6adfbd610acc",
    "kernel gone": "ba38565bbfad4bc8a07ba6657877507b",
    "kernel ready": "3875c962105e492e91d95e0984836065",
    "kernel not ready": "d7044a1e378245f7a53e71f63995152c",
    "kernel held": "c9e2e2340bdaa9e06251030fbb0d7360",
    "kernel released": "29f2682bcf8d3d214dcc4b46ffebafa1",
    "kernel not released": "5bbdd0be22e2378684187ecf87e469c3",
    "older kernel still runs": "842ce199b89ca815b5b17b709bf4b21b",
    "boot environment damaged": "0d4746821ada79ee6abcbd2270cafbca",
    "default not ready": "e1b0e05e6a92959d62e1b5be4409b396",
    "no proven kernel": "55e58c36644fd26193e167c71912057e",
    "target ready": "cadae5ddaeb64d9db4500634dadce96f",
    "target failed": "ddbe5fa231e2453c8b788a06930a8851",
    "target blocked": "8e876caee4d949999815466296f32435",
    "key not enrolled": "95c92cde1757421b888f40ce5df3c6d3",
    "target waiting": "51dcf55b03884e12a8f54e4703f9d0fd",
    "target waiting for kernel-devel": "5064e0ade8444530a48a5781f877b8e5",
    "installed object changed": "866c91b6fe21494bae19c9103c2f5268",
    "notification failed": "2730bc59ae914ae2a45b3e3e0194068a",
    "reload failed": "c6968beff9f4417fb96ef616f4347a24",
    "outcome not stored": "1002cb49366947ddaeee39b42002378f",
    "unforeseen error": "bf09a67f14634eab9cbce3b1cab2f178",
}
