"""Wire-wide bounds, each with its unit last and its reason.

Longer input is refused before it is parsed, and the refusal is reported.
"""

BLOCK_BYTES = 122_880  # 120 KiB: small chunks overflow queues, EMQX's default packet is 1 MB.
MANIFEST_BYTES = BLOCK_BYTES  # It travels as a block.
FILE_BYTES = 16 * 1024 * 1024  # Twice the sensor's memory.
RELEASE_BYTES = 48 * 1024 * 1024  # A float32 simulator graph, a golden set and the package.
BUNDLE_BYTES = 256 * 1024  # 500 listed releases take 62 KB; MQTT brokers take 1 MB.
TIMESTAMP_BYTES = 65_536  # 64 entries take 16.5 KB; python-tuf needs the bound up front.
ENTRIES_MAX = 64
RELEASES_LISTED_MAX = 500
IDENTITY_BYTES = 8_192
STATUS_BYTES = 16
REPORTED_BYTES = 16_384
DETECTIONS_BYTES = 65_536
PACKED_FRAMES_MAX = 16  # Of one message: a second of most releases.
EVENT_BYTES = 1_024
HEALTH_BYTES = 8_192
IMAGE_BYTES = 262_144
REQUEST_BYTES = 4_096
RESPONSE_BYTES = 16_384
ROLLOUT_BYTES = 65_536
INBOX_MESSAGES = 1_024  # A burst of a whole fleet's birth is paced; more is a flood.
OBJECTS_PER_FRAME_MAX = 300  # What the network's own NMS puts out.
LABELS_MAX = 1_000  # ImageNet's classes.
CAMERAS_MAX = 4  # A Pi 5 has two connectors; hats add a few.
BLOCKS_IN_FLIGHT = 8  # The receiver sets the pace: 960 KiB never overflow a queue.
MISSING_BLOCKS_REPORTED_MAX = 16
REFUSED_ENTRIES_REPORTED_MAX = 8
NAME_CHARACTERS_MAX = 64
TEXT_CHARACTERS_MAX = 500  # Error texts in `reported`: sixteen of them fit its limit.
REQUEST_SECONDS_MAX = 60  # `expires` is at most this long after `at`.
REQUEST_IDS_KEPT = 64
HEARTBEAT_SECONDS = 300.0  # `reported` goes out at least this often, in every phase.
TOPIC_LEVELS_MAX = 8  # AWS IoT and others allow no more.
RATE_HZ_MAX = 120  # Messages a second of one camera: never more than it has frames.
CARD_BYTES = 65_536  # A root with three keys takes 3 KB, a certificate 2 KB.
