// English keywords of the emoji of Unicode 15.0: what choose_emoji_keywords makes of Unicode CLDR 41 (Debian 12),
// stored because other versions of CLDR (44 in Ubuntu 24.04) give other keywords. The 21 emoji that CLDR 41 lacks were
// given theirs by hand. The keywords are facts of CLDR, copyright Unicode, Inc., Unicode License (SPDX
// Unicode-DFS-2016).
#include "data/emoji_keywords.h"

namespace matvlm {

const char* const kEmojiKeywordsEnglish = R"keywords(
!: ‼ | *: ✳ ✴ ❇ | 1234: 🔢 | 4: 🍀 | Australia: 🦘 | C: © | CL: 🆑 | COOL: 🆒 | Claus, christmas: 🧑‍🎄 |
European: 🏤 🏰 | FREE: 🆓 | ID: 🪪 | Japanese: 🍙 🍡 🎋 🎌 🎍 🎴 🏣 🏯 | NEW: 🆕 | NG: 🆖 | OK: 🆗 🫡 |
Oberon: 🧚 🧚‍♂ | R: ® | TM: ™ | Titania: 🧚‍♀ | Tokyo: 🗼 | Triton: 🧜‍♂ | Tyrannosaurus Rex: 🦖 |
UFO: 🛸 | abc: 🔤 | absentminded: 😶‍🌫 | access: ♿ | accessibility: 🐕‍🦺 👨‍🦯 👨‍🦼 👨‍🦽 👩‍🦯 👩‍🦼
👩‍🦽 🛗 🦮 🦯 🦻 🦼 🦽 🦾 🦿 🧏 🧑‍🦯 🧑‍🦼 🧑‍🦽 | accounting: 🧾 | admission: 🎫 | adore: 🥰 | adult: 👨
👨‍🦰 👨‍🦱 👨‍🦲 👨‍🦳 👩 👩‍🦰 👩‍🦱 👩‍🦲 👩‍🦳 👴 👵 🧑 🧑‍🦰 🧑‍🦱 🧑‍🦲 🧑‍🦳 🧓 |
aeroplane: ✈ 🛩 🛫 🛬 | alpaca: 🦙 | amusement park: 🎡 🎢 🛝 | angel: 🪽 | angry: 🥹 | annelid: 🪱 |
antlers: 🫎 | ape: 🦧 | arepa: 🫓 | army: 🪖 | arrow: ↔ ↕ ↩ ↪ ⏩ ⏪ ⏫ ⏬ ⏭ ⏮ ⏯ ▶ ◀ ⤴ ⤵ 🔀 🔁 🔂 🔃
🔄 🔙 🔚 🔜 🔼 🔽 | art: 🎨 🎭 🖼 | assembly: 👨‍🏭 👩‍🏭 🧑‍🏭 | atheist: ⚛ | athletics: 🎽 | australia: 🪃 |
baby: 🤱 | backhand: 🤚 | bacteria: 🦠 | badge: 📛 | bag: 🎒 | baggage: 🛄 🛅 | bait: 🪤 | balance: 🤹 |
ball: ⚾ ⛹ 🎳 🎾 🏀 🏈 🏉 🏌 🏏 🏐 🏑 🏓 🤾 🥍 🥎 🧶 | balloon: 👁‍🗨 🗨 🗯 | ballpoint: 🖊 | bandage: 🤕 🩹 |
bank: 🏧 | banknote: 💸 | bar: ⏸ 🍹 🏮 📶 🧼 | barber: 💇 | barrier: 🚧 | baseball cap: 🧢 | bath: 🛁 |
bathing suit: 🩱 🩲 🩳 | bathroom: 🪥 | bathtub: 🛀 | battery: 🔋 | beach sandals: 🩴 | bead: 🧿 | beat: 🪘 |
begging: 🥺 | bell: 🔔 | bicycle: 🚴 🚴‍♀ 🚴‍♂ 🚵 🚵‍♀ 🚵‍♂ | bike: 🚲 | biologist: 👨‍🔬 👩‍🔬 🧑‍🔬
🧫 🧬 | bird: 🐓 🐔 🐣 🐤 🐥 🐦 🐧 🕊 🦃 🦅 🦆 🦉 🦚 🦜 🦢 🪶 🪿 | blonde: 👱‍♀ | blood type: 🅰 🅱 🅾 🆎 |
blow: 🍃 | blue: 💙 📘 🫐 | blue-faced: 🥶 | board: 🛹 | boat: ⛴ ⛵ 🚢 🚤 🛶 | body: 👁 👂 👃 👅 | bok choy: 🥬 |
bone: 🍖 🍗 | book: 📔 📕 📗 📙 📚 | boulder: 🪨 | box: 🍱 📤 📥 📦 🗳 | brachiosaurus: 🦕 | bread: 🥪 |
break: 💔 | breakfast: 🍳 🥣 🥯 🧇 | bricks: 🧱 | briefcase: 💼 | bright: ☀ 🌝 🌞 | brightness: 🔅 🔆 |
bronze: 🥉 | buffalo: 🦬 | building: 🏢 🏦 🏨 🏫 🏭 | burger: 🍔 | bus: 🚍 🚎 🚏 🚐 | business: 👨‍💼 👩‍💼 🕴
🧑‍💼 | bust: 👥 | cable: 🚠 | calculation: 🧮 | calendar: 📆 | camera: 🎦 | camping: ⛺ 🏕 🥾 | can: 🥫 |
captivated: 🫣 | car: 🏎 🚔 🚗 🚘 🚞 🚡 | card: 🗂 🗃 | cartwheel: 🤸 🤸‍♀ 🤸‍♂ | cask: 🪣 | casserole: 🥘 |
catch: 🪝 🫴 | celebration: 🎀 🎁 🎂 🎃 🎄 🎅 🎆 🎇 🎈 🎉 🎊 🎎 🎏 🎐 🎑 🎖 🎗 🤶 🥳 🪅 | cell: 📱 📲 📴 |
cemetery: 🪦 | chain: ⛓ | chair: 💺 | changing: 🚼 | chapel: 💒 | cheering: 📣 | cheese: 🍕 🧀 | chef: 👨‍🍳
👩‍🍳 🧑‍🍳 | chemist: 🧪 | chickpea: 🧆 | chop: 🥩 🪓 | cinema: 🎥 | circle: ⏺ Ⓜ 🛞 🟠 🟡 🟢 🟣 🟤 |
city: 🌆 🏙 | classical: 🏛 | clean: 🫧 | cleaning: 🧽 | climb: 🪜 | climber: 🧗 🧗‍♀ 🧗‍♂ | clipboard: 📋 |
clock: ⌚ ⏰ ⏱ ⏲ 🕐 🕑 🕒 🕓 🕔 🕕 🕖 🕗 🕘 🕙 🕚 🕛 🕜 🕝 🕞 🕟 🕠 🕡 🕢 🕣 🕤 🕥 🕦 🕧 🕰 | closed: 🔐 🔒 |
clothing: ☂ ☔ 🌂 🎓 🎩 👑 👓 👔 👕 👖 👗 👘 👙 👛 👜 👝 👟 👣 📿 🥻 | cloud: ⛅ 🌤 🌥 🌦 🌧 🌩 🌪 🌫 🌬 |
clue: 🧩 | coder: 👨‍💻 👩‍💻 🧑‍💻 | cold: ☃ ⛄ ❄ 🌨 🏔 😓 😰 😷 🧊 | comb: 🪮 | comic: 💡 💢 💣 💤 💥 💦
💧 💨 💪 💫 💬 💭 | computer: ⌨ 💻 💾 💿 📀 🖥 🖨 🖱 🖲 | concertina: 🪗 | condiment: 🧂 | construction: 🏗 |
control: 🛂 | controller: 🎮 | cooking: 🍴 🍽 | cooling: 🪭 | cop: 👮 👮‍♀ 👮‍♂ | cosmetics: 💄 💅 |
couple: 👨‍❤‍💋‍👨 👩‍❤‍💋‍👨 👩‍❤‍💋‍👩 💏 🧑‍❤‍💋‍🧑 | cow: 🐄 | cowgirl: 🤠 | crayon: 🖍 |
crocodile: 🐊 | crow: 🐦‍⬛ | cupid: 💘 | curious: 🦝 | curl: ➰ ➿ | customs: 🛃 | dairy: 🧈 | dam: 🦫 |
dance: 💃 🕺 🩰 🪩 | dancer: 👯 👯‍♀ 👯‍♂ | dark: 🌑 | date: 📅 | dazed: 😳 | dead: 😵 | death: ⚰ ⚱ |
deer: 🦌 | dejected: 😔 | dentist: 🦷 | desert: 🏜 🏝 | diamond: 💍 💎 | diaper: 🧷 | dice: 🎲 | direction: ↖
↗ ↘ ↙ ➡ ⬅ ⬆ ⬇ | disappear: 🫠 🫥 | disappointed: 😥 | disbelief: 🤦‍♀ 🤦‍♂ 🫢 | dish: 📡 |
distrust: 🤨 | diving: 🦪 | dizzy: 🌀 😵‍💫 🥴 | djinn: 🧞 🧞‍♀ 🧞‍♂ | doctor: 🏥 👨‍⚕ 👩‍⚕ 💊 🥼
🧑‍⚕ 🩻 | document: 📃 📄 | dog: 🐩 | doll: 🪆 | dollar: 💰 | door: 🚪 | doubt: 🤷 🤷‍♀ 🤷‍♂ | down: 📉 |
drink: ☕ 🍵 🍶 🍷 🍸 🍺 🍻 🍼 🍾 🥂 🥛 🧉 🫖 🫗 | drinking: 🚰 | drop: 🫳 | drum: 🛢 | dupe: ♟ | ear: 🌾 |
earbud: 🎧 | earthquake: 🫨 | eject: ⏏ | electric: ⚡ | electricity: 🔌 | electronic: 🪫 | elephant: 🐘 |
email: 📩 | embroidery: 🪡 | emergency: 🦺 | empanada: 🥟 | evil: 🖤 🦹 🦹‍♀ 🦹‍♂ | excited: 💗 |
exhale: 😮‍💨 | extinguish: 🧯 | eye: 🕶 😁 😄 😊 😍 😙 😚 😜 😝 🤪 | eye protection: 🥽 | eyeroll: 🙄 |
face: ☠ ⛑ 🌚 🌛 🌜 🐨 🐭 🐮 🐯 🐳 🐴 🐵 🐷 🐸 🐹 🐺 🐻 🐼 🐽 👀 👹 👺 👻 👼 👽 👾 💀 💆 💆‍♀ 💆‍♂ 💩 🗣 🗿
😌 😖 😘 😛 😞 😟 😧 😫 😸 😹 😺 😻 😼 😽 😾 😿 🙀 🙃 🙈 🙉 🙊 🤔 🤖 🤡 🤣 🤤 🤦 🤩 🦁 🦄 🦊 | fairy tale: 🐉 🐲
👸 🧌 | falling: 🌠 🍁 🍂 | family: 👪 | fantasy: 👿 😇 | farming: 🧺 | fax: 📠 | fear: 😨 🫦 | fencer: 🤺 |
festival: 🥮 | feverish: 🥵 | fighter: 🥷 | file: 📁 | filing: 🗄 | finger: 🖐 | firetruck: 👨‍🚒 👩‍🚒 🧑‍🚒 |
fireworks: 🧨 | fish: 🎣 🐠 🐡 🦈 | fishing: 🦦 | flag: 🇦🇨 🇦🇩 🇦🇪 🇦🇫 🇦🇬 🇦🇮 🇦🇱 🇦🇲 🇦🇴 🇦🇶 🇦🇷
🇦🇸 🇦🇹 🇦🇺 🇦🇼 🇦🇽 🇦🇿 🇧🇦 🇧🇧 🇧🇩 🇧🇪 🇧🇫 🇧🇬 🇧🇭 🇧🇮 🇧🇯 🇧🇱 🇧🇲 🇧🇳 🇧🇴 🇧🇶 🇧🇷 🇧🇸
🇧🇹 🇧🇻 🇧🇼 🇧🇾 🇧🇿 🇨🇦 🇨🇨 🇨🇩 🇨🇫 🇨🇬 🇨🇭 🇨🇮 🇨🇰 🇨🇱 🇨🇲 🇨🇳 🇨🇴 🇨🇵 🇨🇷 🇨🇺 🇨🇻 🇨🇼
🇨🇽 🇨🇾 🇨🇿 🇩🇪 🇩🇬 🇩🇯 🇩🇰 🇩🇲 🇩🇴 🇩🇿 🇪🇦 🇪🇨 🇪🇪 🇪🇬 🇪🇭 🇪🇷 🇪🇸 🇪🇹 🇪🇺 🇫🇮 🇫🇯 🇫🇰
🇫🇲 🇫🇴 🇫🇷 🇬🇦 🇬🇧 🇬🇩 🇬🇪 🇬🇫 🇬🇬 🇬🇭 🇬🇮 🇬🇱 🇬🇲 🇬🇳 🇬🇵 🇬🇶 🇬🇷 🇬🇸 🇬🇹 🇬🇺 🇬🇼 🇬🇾
🇭🇰 🇭🇲 🇭🇳 🇭🇷 🇭🇹 🇭🇺 🇮🇨 🇮🇩 🇮🇪 🇮🇱 🇮🇲 🇮🇳 🇮🇴 🇮🇶 🇮🇷 🇮🇸 🇮🇹 🇯🇪 🇯🇲 🇯🇴 🇯🇵 🇰🇪
🇰🇬 🇰🇭 🇰🇮 🇰🇲 🇰🇳 🇰🇵 🇰🇷 🇰🇼 🇰🇾 🇰🇿 🇱🇦 🇱🇧 🇱🇨 🇱🇮 🇱🇰 🇱🇷 🇱🇸 🇱🇹 🇱🇺 🇱🇻 🇱🇾 🇲🇦
🇲🇨 🇲🇩 🇲🇪 🇲🇫 🇲🇬 🇲🇭 🇲🇰 🇲🇱 🇲🇲 🇲🇳 🇲🇴 🇲🇵 🇲🇶 🇲🇷 🇲🇸 🇲🇹 🇲🇺 🇲🇻 🇲🇼 🇲🇽 🇲🇾 🇲🇿
🇳🇦 🇳🇨 🇳🇪 🇳🇫 🇳🇬 🇳🇮 🇳🇱 🇳🇴 🇳🇵 🇳🇷 🇳🇺 🇳🇿 🇴🇲 🇵🇦 🇵🇪 🇵🇫 🇵🇬 🇵🇭 🇵🇰 🇵🇱 🇵🇲 🇵🇳
🇵🇷 🇵🇸 🇵🇹 🇵🇼 🇵🇾 🇶🇦 🇷🇪 🇷🇴 🇷🇸 🇷🇺 🇷🇼 🇸🇦 🇸🇧 🇸🇨 🇸🇩 🇸🇪 🇸🇬 🇸🇭 🇸🇮 🇸🇯 🇸🇰 🇸🇱
🇸🇲 🇸🇳 🇸🇴 🇸🇷 🇸🇸 🇸🇹 🇸🇻 🇸🇽 🇸🇾 🇸🇿 🇹🇦 🇹🇨 🇹🇩 🇹🇫 🇹🇬 🇹🇭 🇹🇯 🇹🇰 🇹🇱 🇹🇲 🇹🇳 🇹🇴
🇹🇷 🇹🇹 🇹🇻 🇹🇼 🇹🇿 🇺🇦 🇺🇬 🇺🇲 🇺🇳 🇺🇸 🇺🇾 🇺🇿 🇻🇦 🇻🇨 🇻🇪 🇻🇬 🇻🇮 🇻🇳 🇻🇺 🇼🇫 🇼🇸 🇽🇰
🇾🇪 🇾🇹 🇿🇦 🇿🇲 🇿🇼 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🏴󠁧󠁢󠁷󠁬󠁳󠁿 | flavoring: 🧄 🧅 | fleur-de-lis: ⚜ |
flipper: 🐬 | flower: 🌷 🌸 🌹 🌺 🌼 💐 💮 🥀 🪷 🪻 | fly: 🪁 | fog: 🌁 | food: 🥐 🥑 🥒 🥓 🥔 🥕 🥖 🥗 🥙 🥚 🥜
🥝 🥞 🦐 🦑 🫒 🫘 | football: ⚽ | forbidden: ⛔ 📵 🔕 🚫 🚭 🚯 🚳 🚷 | forever: ♾ | fortune: 🔯 | fountain: ⛲ |
frame: 🪟 | frankfurter: 🌭 | french: 🍟 | frown: ☹ 😦 🙁 | fruit: 🍅 🍇 🍈 🍉 🍊 🍋 🍌 🍍 🍎 🍏 🍐 🍑 🍒 🍓 🥭 |
full: 💯 🫃 🫄 | game: ♠ ♣ ♥ ♦ 🀄 🃏 🎯 🎰 🎱 🏒 🏸 🕹 🥌 | gardener: 👨‍🌾 👩‍🌾 🧑‍🌾 | geek: 🤓 |
gender-neutral: 🧒 | geometric: ▪ ▫ ◻ ◼ ◽ ◾ ⚪ ⚫ ⬛ ⬜ 💠 🔘 🔲 🔳 🔴 🔵 🔶 🔷 🔸 🔹 🔺 🔻 | gesture: 🙇
🙇‍♀ 🙇‍♂ 🙋 🙋‍♀ 🙋‍♂ 🙍 🙍‍♀ 🙍‍♂ 🙎 🙎‍♀ 🙎‍♂ | gesundheit: 🤧 | glasses: 🥸 | glove: 🥊 |
goal: 🥅 | gold: 🥇 | golf: ⛳ 🏌‍♀ 🏌‍♂ | gorilla: 🦍 | graduate: 👨‍🎓 👩‍🎓 🧑‍🎓 | graph: 📈 📊 |
grasshopper: 🦗 | green: 💚 | grimace: 😬 | grin: 😀 | groom: 🤵 | guard: 💂 | hair: 👱 | haircut: 💈 | hand: ☝
✊ 👆 👇 👈 👉 👊 👌 👍 👎 👏 👐 👩‍🤝‍👨 👩‍🤝‍👩 👫 👭 🖕 🖖 🙅 🙅‍♀ 🙅‍♂ 🙆 🙆‍♀ 🙆‍♂ 🙌 🙏 🤘 🤝
🤞 🤟 🧑‍🤝‍🧑 🧤 🪬 🫱‍🫲 | hand gesture: 🤌 | hang loose: 🤙 | hang-glide: 🪂 | hashi: 🥢 | hat: 👲 👷 |
healthier: ❤‍🩹 | heart: ❤ 💌 💟 🤍 🤎 🩺 | heartbeat: 💓 | help: 🆘 | high 5: ✋ | highway: 🛣 | hijab: 🧕 |
hike: 🚶 🚶‍♀ 🚶‍♂ | hippo: 🦛 | hole: 🕳 | home: 🏠 🏡 | horse: 🎠 | hot: 🌶 | hotel: 🛋 🛌 🛍 🛎 🛏 |
house: 🏚 🛖 🪴 | houses: 🏘 | hug: 🤗 🫂 | hump: 🐪 🐫 | i: ℹ | ice: ⛸ | identity: 🆔 | ideograph: ㊗ ㊙ 🈚
🈯 🈲 🈳 🈴 🈵 🈶 🈷 🈸 🈹 🈺 🉐 🉑 | insect: 🐛 🐜 🐝 🐞 🕷 🦋 🪲 🪳 | instructor: 👨‍🏫 👩‍🏫 🧑‍🏫 |
intelligent: 🧠 | jacket: 🧥 | judo: 🥋 | juice: 🥤 | justice: 👨‍⚖ 👩‍⚖ 🧑‍⚖ | katakana: 🈁 🈂 |
keycap: #⃣ *⃣ 0⃣ 1⃣ 2⃣ 3⃣ 4⃣ 5⃣ 6⃣ 7⃣ 8⃣ 9⃣ 🔟 | kick: 🛴 🦵 🦶 | kiss: 😗 | kneel: 🧎 |
label: 🏷 | large: ⭕ 🦣 🦤 | lazy: 🦥 | leaf: 🌿 🔰 | left: 🫲 | leftwards: 🤛 | leopard: 🐆 | letter: ✉ 📨 |
letters: 🔠 🔡 | lie: 🤥 | lifter: 🏋 | light: 🕯 | link: 🔗 🖇 | lips: 👄 💋 | litter: 🚮 | loaf: 🍞 | lock: 🔏
🔑 🗝 | loud: 📢 🔊 | love: ❤‍🔥 🏩 👨‍❤‍👨 👩‍❤‍👨 👩‍❤‍👩 💑 💕 🧑‍❤‍🧑 🩵 🩶 🩷 🫶 | lumber: 🪵 |
mad: 😠 | magical: 🧝 🧝‍♀ 🧝‍♂ | magnetic: 🧭 🧲 | mail: 📧 📪 📫 📬 📭 📮 | maize: 🌽 | man: ♂ ⛹‍♂
🏄‍♂ 👞 👨‍👦 👨‍👦‍👦 👨‍👧 👨‍👧‍👦 👨‍👧‍👧 👨‍👨‍👦 👨‍👨‍👦‍👦 👨‍👨‍👧 👨‍👨‍👧‍👦
👨‍👨‍👧‍👧 👨‍🤝‍👨 👬 👰‍♂ 👱‍♂ 👳‍♂ 👷‍♂ 💂‍♂ 💇‍♂ 🚹 🤵‍♂ 🤽‍♂ 🤾‍♂ 🧍‍♂ 🧎‍♂
🧏‍♂ 🧔‍♂ | map: 🗾 | marathon: 🏃 | mark: ❣ 〽 🆙 📑 🔖 🔛 | math: 🟰 | medal: 🏅 | medicine: ⚕ 💉 🩸 |
meditation: 🧘 🧘‍♀ 🧘‍♂ | medium: 🔉 | meh: 😐 😑 😕 🫤 | mermaid: 🧜 | merwoman: 🧜‍♀ | mexican: 🌮 🌯
🫔 | mic: 🎤 | milk: 🧋 | moisturizer: 🧴 | monarch: 🫅 | money: 💱 💲 💳 💴 💵 💶 💷 💹 🤑 🧧 🪙 🫰 |
monkey: 🐒 | moon: 🌒 🌓 🌔 🌕 🌖 🌗 🌘 🌙 | motorboat: 🛥 | mountain: ⛰ 🌋 🗻 | mouse: 🐁 | mouth: 🤐 |
movie: 🎞 🎬 | mule: 🫏 | multitask: 🤹‍♀ 🤹‍♂ | music: 🎙 🎚 🎛 🎵 🎶 🎷 🎸 🎹 🎺 🎻 🎼 🥁 🪇 🪈 🪕 |
neck: 🧣 | needle: 🧵 | nesting: 🪹 🪺 | network: 🛜 | night: 🌉 | non-drinking: 🚱 | noodle: 🍜 | note: 🗒 |
notebook: 📒 📓 | nursing: 👨‍🍼 👩‍🍼 🧑‍🍼 | ocean: 🌊 🪸 | octagonal: 🛑 | octopus: 🐙 | oil: 🪔 |
oncoming: 🚖 | open: 📂 📖 🔓 | optical: 💽 | orange: 🧡 | organ: 🫀 🫁 | oyster pail: 🥡 | packing: 🧳 |
pad: 🗓 | pager: 📟 | painting: 🖌 | palette: 👨‍🎨 👩‍🎨 🧑‍🎨 | palm: 🥥 | paper: 📜 📰 🗞 |
paper towels: 🧻 | paperclip: 📎 | park: 🏞 | parking: 🅿 | pasta: 🍝 | pastry: 🍥 🥧 | patrol: 🚓 | peace: ☮ |
pen: ✒ 🖋 | pencil: ✏ 📝 | persevere: 😣 | person: 🧔 | pest: 🦟 🪰 | pester: 🦡 | pet: 🐇 🐈 🐕 🐰 🐱 🐶 |
phone: ☎ 📞 📳 🤳 | pick-up: 🛻 | pig: 🐗 | pin: 📌 📍 | plane: 👨‍✈ 👩‍✈ 🧑‍✈ | plant: ☘ 🌰 🌵 🏵 |
plumber: 👨‍🔧 👩‍🔧 🧑‍🔧 | point: 🫵 | popcorn: 🍿 | post: 📯 🚩 | pot: 🫕 | prawn: 🍤 | prayer: 🤲 |
pride: 🏳‍🌈 | prince: 🤴 | print: 🐾 | prize: 🏆 | prohibited: 🔞 | prophecy: 🥠 | proud: 🥲 | punctuation: ⁉
❓ ❔ ❕ ❗ 〰 | purple: 💜 | quiet: 🔇 😶 🤫 | racehorse: 🏇 | racing: 🏁 🏃‍♀ 🏃‍♂ 🏍 🐎 | railway: 🚂 🚄
🚅 🚆 🚈 🚉 🚟 | rain: 🌈 | rat: 🐀 | recreational: 🚙 | recycle: ♻ | red: 😡 | reflection: 🪞 | religion: ☦
☪ ☯ ☸ ⛩ ⛪ ✝ ✡ 🕉 🕋 🕌 🕍 🕎 🛐 🪯 | reptile: 🦎 | revolving: 💞 🚨 | rhinoceros: 🦏 | rice: 🍘 🍚 🍛 |
right: 🫱 | rightwards: 🤜 | rocket: 👨‍🚀 👩‍🚀 🧑‍🚀 | roller: 🛼 | rolodex: 📇 | rowboat: 🚣 🚣‍♀ 🚣‍♂ |
ruler: 📏 | safety: 🛟 | sassy: 💁 💁‍♀ 💁‍♂ | saturn: 🪐 | sauna: 🧖 🧖‍♀ 🧖‍♂ | scared: 😱 |
scooter: 🛵 | scuba: 🤿 | sea: 🪼 | sea lion: 🦭 | seafood: 🦞 | seat: 🪑 | sharp: 🪒 | shedding: 🌳 | sheep: 🐑 |
ship: 🛳 | shocked: 😲 🤯 | shot: 🥃 | sick: 🤒 🤮 | sign: ☢ ☣ ✖ ➕ ➖ ➗ 🪧 | signal: 🚥 🚦 | silhouette: 👤 |
silver: 🥈 | skeleton: 🦴 | sledge: 🛷 | sleep: 😪 😴 | sleuth: 🕵 🕵‍♀ 🕵‍♂ | slip-on: 🥿 |
small amount: 🤏 | smile: ☺ 😃 😅 😆 😈 😋 🙂 | smirk: 😏 | smoking: 🚬 | snail: 🐌 | snow: ⛷ 🎿 🏂 | soft: 🔈 |
sow: 🐖 | space: ☄ 🌌 🚀 🛰 | sparkle: 🌟 💖 | spice: 🫚 | spider: 🕸 | spiny: 🦔 | spiral: 🐚 | spots: 🦒 |
square: ⏹ ❎ 🟥 🟦 🟧 🟨 🟩 🟪 🟫 | squirrel: 🐿 | stadium: 🏟 | stand: 🧍 | star: ✨ ⭐ 🌃 👨‍🎤 👩‍🎤
🧑‍🎤 | station: ⛽ | statue: 🗽 | steaming: ♨ | stew: 🍲 | stick: 🍢 🩼 | stink: 🦨 | stocking: 🧦 | stop: 🫷
🫸 | store: 🏪 🏬 🫙 | stripe: 🦓 | stuffed: 🧸 | stuffy: 🧐 | subway: 🚇 | sun: ⛱ 🌄 🌅 🌇 🌻 😎 |
superpower: 🦸 🦸‍♀ 🦸‍♂ | surfing: 🏄 | surprised: 😯 | sushi: 🍣 | swearing: 🤬 | sweet: 🍠 🍦 🍧 🍨 🍩 🍪
🍫 🍬 🍭 🍮 🍯 🍰 🧁 🧃 | swim: 🏊 🏊‍♀ 🏊‍♂ | sympathy: 😮 | tableware: 🥄 | tear: 😂 😢 😭 | temple: 🛕 |
tent: 🎪 | terrapin: 🐢 | thunder: ⛈ | ticket: 🎟 | tie: 🪢 | tiger: 🐅 | timer: ⌛ ⏳ | tired: 😩 🥱 |
toadstool: 🍄 | toilet: 🚻 🚽 🚾 🪠 | tool: ⚒ ⚓ ⚗ ⚙ ⛏ ✂ 🔍 🔎 🔥 🔦 🔧 🔨 🔩 🔪 🔫 🔬 🔭 🔮 🔱 🗜 🛠 🧰 🪚
🪛 | toy: 🪀 | traffic: 🚸 | train: 🚃 🛤 | transgender: ⚧ | treasure: 🏴‍☠ | tree: 🌲 🌴 | triangle: 📐 |
triumph: 😤 | trolley: 🛒 | trolleybus: 🚊 🚋 | tropical: 🦩 | truck: 🚒 🚚 🚛 | tuk tuk: 🛺 | turban: 👳 |
twisted: 🥨 | ultimate: 🥏 | umbrella: 🏖 | undead: 🧛 🧛‍♀ 🧛‍♂ 🧟 🧟‍♀ 🧟‍♂ | unhappy: 😒 |
unlucky: 🐈‍⬛ | up: 🔝 | v: ✌ | valentine: 💝 | vampire: 🦇 | vegetable: 🍆 🫑 🫛 | vehicle: 🚁 🚌 🚑 🚕 🚜
🚝 | versus: 🆚 | video: 📷 📸 📹 📺 📻 📼 📽 | vomit: 🤢 | warning: ⚠ | wastebasket: 🗑 | water: 🐃 🚿 🤽 |
wave: 👋 | waving: 🏳 🏴 | weapon: ⚔ 🗡 🛡 | weather: ☁ 🌡 | wedding: 👰 | weight lifter: 🏋‍♀ 🏋‍♂ |
whale: 🐋 | white: 🏳‍⚧ 🐻‍❄ | whoops: 🤭 | wild cabbage: 🥦 | wink: 😉 | witch: 🧙 🧙‍♀ 🧹 🪄 |
wizard: 🧙‍♂ | woman: ♀ ⛹‍♀ 🏄‍♀ 👒 👚 👠 👡 👢 👨‍👩‍👦 👨‍👩‍👦‍👦 👨‍👩‍👧 👨‍👩‍👧‍👦
👨‍👩‍👧‍👧 👩‍👦 👩‍👦‍👦 👩‍👧 👩‍👧‍👦 👩‍👧‍👧 👩‍👩‍👦 👩‍👩‍👦‍👦 👩‍👩‍👧
👩‍👩‍👧‍👦 👩‍👩‍👧‍👧 👰‍♀ 👳‍♀ 👷‍♀ 💂‍♀ 💇‍♀ 🚺 🤰 🤵‍♀ 🤽‍♀ 🤾‍♀ 🧍‍♀ 🧎‍♀ 🧏‍♀
🧔‍♀ | world: 🌍 🌎 🌏 🌐 🗺 | wrestle: 🤼 🤼‍♀ 🤼‍♂ | write: ✍ | yellow: 💛 | young: 🌱 👦 👶 |
zodiac: ♈ ♉ ♊ ♋ ♌ ♍ ♎ ♏ ♐ ♑ ♒ ♓ ⚖ ⛎ 🏹 🏺 🐂 🐍 🐏 🐐 🐟 👧 🦀 🦂 | ×: ❌ | ✓: ☑ ✅ ✔ |
〒♪&%: 🔣
)keywords";

}  // namespace matvlm
