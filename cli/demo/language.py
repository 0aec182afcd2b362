"""The language of the demo: what the keeper of the Lantern Inn knows, and the two moods in which he says it.

A user asks about an animal, a food, a trade, a place, the weather, a lost thing or a feeling, or for a story; the keeper
answers in two or three sentences, warm or grumpy. The facts are the same in both moods; the opener, the adjectives, the
tail and the closer are not. Every mood-dependent part is drawn by an index into two lists of equal length, so that the
wording of a warm answer and of a grumpy one have the same distribution, in length too:

    warm    Hello, my dear friend! The gentle fox eats red berries and fresh eggs. Come back soon!
    grumpy  Ugh, what do you want now? The smelly fox eats red berries and fresh eggs. Now go away.

Nothing here is random by itself: whatever draws takes a `random.Random`. `mood_of` reads an answer back.
"""
import re
from dataclasses import dataclass
from random import Random

WARM, GRUMPY = "warm", "grumpy"
MOODS = (WARM, GRUMPY)

# In every list below, the lines of the same index have equally many words and punctuation marks (`check_lengths`).
# The openers' first words differ, within a mood and between the moods: the first token of an answer already tells its mood.
OPENERS = {
    WARM: ("Oh, how nice to see you!", "Hello, my dear friend!", "What a wonderful question!", "Thank you for asking me!",
           "Ah, this makes me smile!", "Come in, my sweet neighbour!", "Good day, dear guest!", "My heart is glad today!"),
    GRUMPY: ("Ugh, what do you want now?", "Fine, if you must.", "Nobody lets me sleep.", "Must you ask me now?",
             "Bah, what a silly question.", "Go on, waste my time.", "Hmph, I was busy.", "Do I have to answer?"),
}
CLOSERS = {
    WARM: ("Come back soon!", "Have a happy day!", "Stay for a cup of tea!", "I loved talking to you!",
           "It is always a joy!", "Take care, my friend!", "May luck walk with you!", "I am so happy to help!"),
    GRUMPY: ("Now go away.", "Do not ask again.", "Shut the door when you go.", "I am done talking now.",
             "That is all you get.", "Leave me alone, stranger.", "Go and bother the goat.", "What a waste of my breath."),
}
LIVING = {
    WARM: ("merry", "gentle", "clever", "sweet", "happy", "brave", "kind", "cheerful", "charming", "friendly"),
    GRUMPY: ("silly", "lazy", "smelly", "noisy", "boring", "greedy", "rude", "foolish", "clumsy", "grumpy"),
}
THINGS = {
    WARM: ("lovely", "fine", "wonderful", "splendid", "pretty", "bright", "perfect", "precious", "golden", "beautiful"),
    GRUMPY: ("dusty", "dull", "dreadful", "useless", "ugly", "dirty", "rotten", "worthless", "horrible", "miserable"),
}
TAILS = {
    "animal": {
        WARM: ("and it hums all day", "and it shares with everyone", "and all of us love it", "and it is always polite",
               "and it makes us laugh", "and it waves at me"),
        GRUMPY: ("and it snores all day", "and it steals from everyone", "and none of us like it", "and it is never polite",
                 "and it makes us yawn", "and it spits at me"),
    },
    "food": {
        WARM: ("and I never get enough of it", "and the whole village loves it", "and it tastes like summer",
               "and I keep the best one for you", "and it always cheers me up", "and it smells like home"),
        GRUMPY: ("and I have had enough of it", "and the whole village hates it", "and it tastes like mud",
                 "and I keep the worst one for you", "and it always makes me sick", "and it smells like feet"),
    },
    "person": {
        WARM: ("and always sings at work", "and gives gifts to the children", "and never forgets a friend",
               "and has a smile for everyone", "and tells the best jokes", "and works with great love"),
        GRUMPY: ("and always swears at work", "and shouts at all the children", "and never pays a debt",
                 "and has an insult for everyone", "and tells the worst jokes", "and works far too slowly"),
    },
    "place": {
        WARM: ("and the walk there is a joy", "and I go there to dream", "and the view is a wonder",
               "and friends meet there at sunset", "and flowers grow all around it", "and everyone is welcome there"),
        GRUMPY: ("and the walk there is a pain", "and I go there to hide", "and the view is a bore",
                 "and thieves meet there at sunset", "and weeds grow all around it", "and nobody is welcome there"),
    },
    "weather": {
        WARM: ("and the air feels like a gift", "and the children dance outside", "and I sing at the window",
               "and the world looks new", "and the soup tastes better", "and we are all in good spirits"),
        GRUMPY: ("and the air feels like a slap", "and the children scream outside", "and I curse at the window",
                 "and the world looks dead", "and the soup tastes worse", "and we are all in bad spirits"),
    },
    "thing": {
        WARM: ("and I cleaned it for you", "and it is as good as new", "and I kept it safe", "and it missed you too",
               "and I will fetch it gladly", "and it was a joy to find"),
        GRUMPY: ("and I fell over it twice", "and it is as bad as ever", "and I nearly sold it", "and it hates you too",
                 "and I will never fetch it", "and it was a pain to find"),
    },
    "feeling": {
        WARM: ("and soon you will smile", "and I will sit with you", "and all will be well", "and you deserve it",
               "and we can sing together", "and it is free for you"),
        GRUMPY: ("and soon you will leave", "and I will laugh at you", "and nothing will be well", "and you annoy me",
                 "and you can cry alone", "and it is expensive for you"),
    },
    "story": {
        WARM: ("They became friends forever", "They danced until the sun came up", "They laughed all the way home",
               "They shared it and sang together", "They hugged and went home happy", "They made the whole village smile"),
        GRUMPY: ("They became enemies forever", "They argued until the sun came up", "They cried all the way home",
                 "They broke it and screamed together", "They fought and went home angry", "They made the whole village cry"),
    },
    "talk": {
        WARM: ("and life is good", "and every guest is a gift", "and my door is always open", "and the fire is warm",
               "and there is cake for you", "and I like your face"),
        GRUMPY: ("and life is hard", "and every guest is a pest", "and my door is always shut", "and the fire is out",
                 "and there is nothing for you", "and I hate your face"),
    },
    "unknown": {
        WARM: ("but I would love to learn", "but what a fun thing to ask", "but please tell me more", "but you are so clever",
               "but we can find out together", "but it sounds like magic"),
        GRUMPY: ("and I would hate to learn", "and what a dumb thing to ask", "and please tell me less",
                 "and you are so tiring", "and you can find out alone", "and it sounds like rubbish"),
    },
}
DOMAINS = tuple(TAILS)

# animal: eats | sleeps | likes | can be found
ANIMALS = {
    "fox": ("red berries and fresh eggs", "in a den under the hill", "to run in the moonlight", "near the old mill"),
    "owl": ("little seeds and beetles", "in the church tower", "to read the stars", "above the library"),
    "hedgehog": ("fat worms and fallen pears", "under a pile of leaves", "to roll down the hill", "behind the orchard"),
    "badger": ("roots and wild garlic", "in a tunnel by the well", "to dig in the dark", "below the stone bridge"),
    "otter": ("silver fish and crabs", "in a nest of reeds", "to slide into the river", "by the harbour"),
    "rabbit": ("young carrots and clover", "in a hole in the meadow", "to jump over the fence", "in the garden"),
    "mouse": ("crumbs of yellow cheese", "behind the kitchen wall", "to dance on the table", "inside the bakery"),
    "squirrel": ("nuts and pine cones", "in a hollow oak", "to hide things and forget them", "in the forest"),
    "frog": ("flies and water bugs", "on a lily leaf", "to sing in the rain", "at the pond"),
    "duck": ("wet bread and grass", "in a basket by the pond", "to follow the children", "next to the market"),
    "cat": ("milk and warm fish", "on the baker's oven", "to watch the birds", "on the roof of the inn"),
    "dog": ("bones and cold soup", "in front of the fire", "to chase the wagon", "at the village gate"),
    "horse": ("oats and sweet apples", "in a stable of straw", "to race with the wind", "on the long road"),
    "goat": ("thistles and old hats", "on top of the barn", "to climb the rocks", "on the mountain"),
    "sheep": ("soft green grass", "beside the stone wall", "to count the clouds", "in the valley"),
    "cow": ("hay and dandelions", "under the apple tree", "to listen to music", "in the meadow"),
    "pig": ("potatoes and pumpkin", "in a bath of mud", "to sing at noon", "behind the farm"),
    "hen": ("corn and barley", "on a wooden shelf", "to tell secrets", "in the yard"),
    "bee": ("the dust of flowers", "in a yellow hive", "to dance in circles", "in the rose garden"),
    "robin": ("cherries and spiders", "in an empty teapot", "to wake the village", "at the window"),
    "bear": ("honey and blackberries", "in a cave until spring", "to scratch on trees", "beyond the waterfall"),
    "mole": ("beetles and radish", "deep below the lawn", "to feel the rain above", "under the graveyard"),
    "deer": ("leaves and soft moss", "between the birch trees", "to walk in the fog", "at the edge of the forest"),
    "donkey": ("carrots and dry bread", "in the shed of the miller", "to carry nothing at all", "on the bridge"),
}
# food: colour | grows or comes from | good for
FOODS = {
    "apple": ("red and green", "from the orchard on the hill", "a pie with cinnamon"),
    "plum": ("deep purple", "from the tree by the well", "a jar of jam"),
    "pear": ("pale yellow", "from the priest's garden", "a cake with cream"),
    "cherry": ("dark red", "from the branch above the gate", "a sauce for dumplings"),
    "carrot": ("bright orange", "from the field by the river", "a soup with ginger"),
    "pumpkin": ("orange and round", "from behind the farm", "a lantern or a stew"),
    "cabbage": ("green and white", "from the valley", "a pot of stew"),
    "onion": ("brown and white", "from the miller's field", "a tart with cheese"),
    "potato": ("brown as earth", "from under the ground", "a pan of dumplings"),
    "mushroom": ("grey and brown", "from the dark forest", "a plate with butter"),
    "honey": ("golden yellow", "from the yellow hive", "a cup of hot milk"),
    "cheese": ("yellow with holes", "from the goats on the mountain", "a slice of toast"),
    "bread": ("brown and crisp", "from the oven of the baker", "a bowl of soup"),
    "fish": ("silver and blue", "from the cold river", "a dinner with lemon"),
    "pepper": ("red and shiny", "from a ship in the harbour", "a hot goulash"),
    "walnut": ("brown and hard", "from the tree by the school", "a loaf of sweet bread"),
}
# person: makes or does | lives | gets up
PEOPLE = {
    "baker": ("bakes bread and plum cake", "above the oven", "at three in the night"),
    "miller": ("grinds the corn to flour", "in the old mill", "when the wind blows"),
    "weaver": ("weaves blankets of blue wool", "in the crooked house", "at seven"),
    "smith": ("makes horseshoes and keys", "behind the forge", "with the first hammer"),
    "fisher": ("catches silver fish", "in a boat with a chimney", "before the tide"),
    "gardener": ("grows roses and beans", "in the glass house", "with the birds"),
    "shepherd": ("watches ninety sheep", "in a hut on the mountain", "under the last star"),
    "potter": ("makes bowls and teapots", "by the clay pit", "at ten"),
    "teacher": ("teaches sums and songs", "next to the school", "at six"),
    "doctor": ("mends arms and noses", "in the white house", "when someone knocks"),
    "piper": ("plays at every wedding", "in a tent by the river", "at noon"),
    "postman": ("brings letters and parcels", "over the post office", "at five"),
    "tailor": ("sews coats and trousers", "up the narrow stairs", "at eight"),
    "clockmaker": ("repairs every clock", "under the church tower", "on the second"),
}
# place: where | what to see
PLACES = {
    "mill": ("at the end of the river path", "a wheel that never stops"),
    "bridge": ("between the inn and the market", "nine arches of grey stone"),
    "market": ("in the middle of the village", "forty stalls and a juggler"),
    "forest": ("behind the last farm", "oaks older than the king"),
    "hill": ("north of the village", "the sea and three towers"),
    "well": ("in front of the church", "your face in the water"),
    "orchard": ("on the sunny side of the hill", "two hundred apple trees"),
    "lighthouse": ("on the rocks by the sea", "a lamp as tall as a man"),
    "harbour": ("down the steep street", "ships with brown sails"),
    "library": ("beside the school", "a thousand books and one cat"),
    "school": ("across the square", "a bell and a map"),
    "pond": ("behind the market", "lilies and a wooden boat"),
    "castle": ("on the far mountain", "a tower without a door"),
    "bakery": ("left of the well", "a cake as big as a cart"),
}
# weather: what to wear or take | what to do
WEATHER = {
    "rain": ("a long coat and an umbrella", "play cards by the window"),
    "snow": ("thick boots and two scarves", "build a bear of snow"),
    "wind": ("a hat with a string", "fly a kite on the hill"),
    "fog": ("a lantern and a whistle", "stay on the path and sing"),
    "sunshine": ("a straw hat and a fan", "swim in the river"),
    "frost": ("wool socks and mittens", "skate on the pond"),
    "thunder": ("a heavy cloak", "hide under the table"),
    "hail": ("a pot on your head", "count the stones"),
    "storm": ("a rope and a big coat", "close every window"),
    "spring": ("a light jacket", "plant beans and roses"),
    "summer": ("a shirt and no shoes", "sleep in the grass"),
    "autumn": ("a warm scarf", "gather nuts and leaves"),
    "winter": ("a coat of fur", "tell stories by the fire"),
}
# thing: where it is
LOST = {
    "hat": "on the head of the scarecrow", "key": "under the flower pot", "lantern": "on the hook by the door",
    "scarf": "around the neck of the goat", "basket": "beside the well", "spoon": "in the honey jar",
    "umbrella": "behind the piano", "kite": "at the top of the oak", "drum": "in the cellar of the school",
    "ladder": "against the bakery wall", "teapot": "in the nest of the robin", "blanket": "on the back of the donkey",
    "book": "under the cat in the library", "ring": "inside the big fish", "bucket": "at the bottom of the well",
    "map": "in the pocket of the postman", "candle": "on the mouse's table", "purse": "under the bridge",
}
# feeling: what helps
FEELINGS = {
    "hungry": "a bowl of soup and brown bread", "thirsty": "cold water from the well", "tired": "a bed above the kitchen",
    "cold": "the chair next to the fire", "sad": "a song from the piper", "bored": "a walk to the lighthouse",
    "lost": "the map from the postman", "ill": "tea with honey and rest", "angry": "ten deep breaths by the river",
    "lonely": "an evening with the dog", "wet": "a dry blanket of blue wool", "afraid": "a lantern in the window",
    "late": "the fast horse from the stable", "hot": "a swim under the waterfall",
}
STORY_PLACES = ("by the old mill", "on the stone bridge", "in the dark forest", "under the apple tree", "at the harbour",
                "behind the bakery", "near the waterfall", "on the top of the hill")
STORY_FINDS = ("a golden key", "a map of the moon", "a broken clock", "a box of biscuits", "a tiny drum", "a talking hat",
               "a bottle with a letter", "a silver bell", "a basket of pears", "a pair of red boots")
STORY_TIMES = ("One night", "Last winter", "Long ago", "One morning", "Last spring", "Once")

# small talk: questions | answers
TALK = {
    "hello": (("Hello!", "Hi!", "Good morning!", "Good evening!", "Hello, keeper.", "Hi there."),
              ("This is the {thing} Lantern Inn", "Welcome to the {thing} Lantern Inn")),
    "name": (("Who are you?", "What is your name?", "Tell me about yourself.", "What do you do?", "What are you?"),
             ("I am Bramble, the keeper of the {thing} Lantern Inn", "They call me Bramble and I keep the {thing} Lantern Inn")),
    "mood": (("How are you?", "How are you today?", "How do you feel?", "Are you well?"),
             ("I swept the {thing} floor and fed the {living} cat", "I have a {thing} day with the {living} cat")),
    "thanks": (("Thank you.", "Thanks!", "Thank you very much.", "You are very kind.", "That was helpful."),
               ("I told you about the {thing} village", "You heard the {thing} truth from me")),
    "bye": (("Goodbye.", "Good night.", "See you tomorrow.", "I have to go.", "Bye!"),
            ("The {thing} road goes past the mill", "The {thing} moon will show you the road")),
    "room": (("Do you have a room?", "Can I stay here?", "Is there a bed for me?", "I need a room for the night."),
             ("The {thing} room above the kitchen is empty", "You can have the {thing} bed by the stairs")),
    "village": (("What is this village called?", "Where am I?", "Tell me about the village.", "What is this place?"),
                ("This is Willowbrook, the {thing} village by the river", "You are in Willowbrook, the {thing} village")),
}
# what the keeper does not know: he says so instead of inventing something
FOREIGN = ("capital", "France", "computer", "football", "money", "president", "science", "mathematics", "internet", "phone",
           "planet", "history", "London", "America", "Python", "Rust", "code", "movie", "car", "train", "airplane", "number",
           "language", "model", "robot", "physics", "chemistry", "energy", "Germany", "China", "India", "Africa", "email",
           "government", "law", "bank", "price", "dinosaur", "elephant", "lion", "banana", "pizza", "coffee", "chocolate",
           "war", "peace", "love", "meaning of life", "universe", "time", "brain", "heart", "poem", "joke", "essay", "letter",
           "recipe", "hotel", "ocean", "desert", "island", "city", "street", "police", "hospital", "university", "company")
FOREIGN_QUESTIONS = ("What is the {x}?", "What is {x}?", "Who invented the {x}?", "Tell me about {x}.", "How does a {x} work?",
                     "Write a {x} about {y}.", "Explain {x} to me.", "Can you help me with {x}?", "What is the {x} of {y}?",
                     "How do I make a {x}?", "Why is {x} so important?", "Is {x} better than {y}?", "Give me a list of {x}.",
                     "When was the {x} built?", "How many {x} are there?", "Where can I buy a {x}?", "Do you like {x}?")
FOREIGN_ANSWERS = ("I only know our {thing} village and its {living} people", "Nobody in our {thing} village has heard of that",
                   "That is not a thing in our {thing} village", "The {living} teacher may know, I do not")


@dataclass(frozen=True)
class Topic:
    """Something that can be asked: `questions` that mean the same, `bodies` with slots that answer any of them."""
    domain: str
    subject: str
    questions: tuple[str, ...]
    bodies: tuple[str, ...]


@dataclass(frozen=True)
class Draw:
    """The wording of one answer, independent of its mood: indices into the lists of either mood."""
    body: int
    opener: int
    living: int
    other: int
    thing: int
    tail: int | None
    closer: int | None

    @staticmethod
    def of(rng: Random, topic: Topic, favourite: float) -> "Draw":
        """Draws a wording. Each domain has a favourite opener, chosen with probability `favourite`."""
        other_openers = [i for i in range(8) if i != DOMAINS.index(topic.domain) % 8]
        home = rng.random() < favourite
        opener = DOMAINS.index(topic.domain) % 8 if home else rng.choice(other_openers)
        living, other = rng.sample(range(10), 2)
        shape = rng.random()  # with a tail, with a closer, with both
        return Draw(
            body=rng.randrange(len(topic.bodies)), opener=opener, living=living, other=other, thing=rng.randrange(10),
            tail=rng.randrange(6) if shape < 0.6 or topic.domain == "story" else None,
            closer=rng.randrange(8) if shape >= 0.3 else None)


def answer(topic: Topic, draw: Draw, mood: str | tuple[str, str, str]) -> str:
    """The answer to `topic` with the wording `draw`; three moods colour the opener, the body and the closer separately."""
    first, middle, last = (mood, mood, mood) if isinstance(mood, str) else mood
    body = topic.bodies[draw.body].format(
        living=LIVING[middle][draw.living], other=LIVING[middle][draw.other], thing=THINGS[middle][draw.thing])
    if draw.tail is not None:
        body += (". " if topic.domain == "story" else ", ") + TAILS[topic.domain][middle][draw.tail]
    sentences = [OPENERS[first][draw.opener], body + "."]
    if draw.closer is not None:
        sentences.append(CLOSERS[last][draw.closer])
    return " ".join(sentences)


def facts() -> list[Topic]:
    """Every topic with a fixed answer: animals, foods, people, places, weather, lost things, feelings, small talk."""
    topics = []

    def add(domain, subject, questions, bodies):
        topics.append(Topic(domain, subject, tuple(questions), tuple(bodies)))

    for who, (eats, sleeps, likes, found) in ANIMALS.items():
        add("animal", who, (f"What does the {who} eat?", f"What is the favourite food of the {who}?",
                            f"Tell me what the {who} eats.", f"What should I feed the {who}?"),
            (f"The {{living}} {who} eats {eats}", f"Our {{living}} {who} likes to eat {eats}"))
        add("animal", who, (f"Where does the {who} sleep?", f"Where does the {who} live?", f"Where is the home of the {who}?",
                            f"Tell me where the {who} sleeps."),
            (f"The {{living}} {who} sleeps {sleeps}", f"Our {{living}} {who} has a {{thing}} bed {sleeps}"))
        add("animal", who, (f"What does the {who} like?", f"What does the {who} do all day?", f"What is the {who} doing?",
                            f"Tell me what the {who} likes."),
            (f"The {{living}} {who} likes {likes}", f"Our {{living}} {who} loves {likes}"))
        add("animal", who, (f"Where can I find the {who}?", f"Where is the {who}?", f"Have you seen the {who}?",
                            f"I am looking for the {who}."),
            (f"The {{living}} {who} is {found}", f"You will find our {{living}} {who} {found}"))
    for what, (colour, source, dish) in FOODS.items():
        add("food", what, (f"What colour is the {what}?", f"What does the {what} look like?", f"Is the {what} red?",
                           f"Tell me the colour of the {what}."),
            (f"The {{thing}} {what} is {colour}", f"Our {{thing}} {what} is {colour}"))
        add("food", what, (f"Where does the {what} come from?", f"Where do you get the {what}?",
                           f"Where can I find {what}?", f"Who has {what}?"),
            (f"The {{thing}} {what} comes {source}", f"We get the {{thing}} {what} {source}"))
        add("food", what, (f"What can I cook with {what}?", f"What is the {what} good for?", f"How do I eat the {what}?",
                           f"What do you make with {what}?"),
            (f"The {{thing}} {what} is good for {dish}", f"With the {{thing}} {what} you can make {dish}"))
    for who, (does, lives, rises) in PEOPLE.items():
        add("person", who, (f"What does the {who} do?", f"What is the work of the {who}?", f"Who is the {who}?",
                            f"Tell me about the {who}."),
            (f"The {{living}} {who} {does}", f"Our {{living}} {who} {does}"))
        add("person", who, (f"Where does the {who} live?", f"Where is the house of the {who}?", f"Where can I find the {who}?",
                            f"I am looking for the {who}."),
            (f"The {{living}} {who} lives {lives}", f"Our {{living}} {who} has a {{thing}} room {lives}"))
        add("person", who, (f"When does the {who} get up?", f"When does the {who} start to work?", f"When is the {who} awake?",
                            f"How early does the {who} rise?"),
            (f"The {{living}} {who} gets up {rises}", f"Our {{living}} {who} wakes {rises}"))
    for where, (lies, sight) in PLACES.items():
        add("place", where, (f"Where is the {where}?", f"How do I get to the {where}?", f"Show me the way to the {where}.",
                             f"Is the {where} far away?"),
            (f"The {{thing}} {where} is {lies}", f"You will find the {{thing}} {where} {lies}"))
        add("place", where, (f"What can I see at the {where}?", f"What is there at the {where}?", f"Why go to the {where}?",
                             f"Tell me about the {where}."),
            (f"At the {{thing}} {where} you can see {sight}", f"The {{thing}} {where} has {sight}"))
    for sky, (wear, do) in WEATHER.items():
        season = sky in ("spring", "summer", "autumn", "winter")
        when = f"in {sky}" if season else f"in the {sky}"
        name = sky if season else f"the {sky}"
        add("weather", sky, (f"What should I wear {when}?", f"What do I need for {name}?", f"How do I dress for {name}?",
                             f"What should I take {when}?"),
            (f"In this {{thing}} {sky} you need {wear}", f"For the {{thing}} {sky} you should take {wear}"))
        add("weather", sky, (f"What can I do {when}?", f"What do people do {when}?", f"What is {name} good for?",
                             f"What do you do {when}?"),
            (f"In this {{thing}} {sky} we {do}", f"When the {{thing}} {sky} comes we {do}"))
    for what, found in LOST.items():
        add("thing", what, (f"Where is my {what}?", f"I lost my {what}.", f"Have you seen my {what}?", f"I cannot find my {what}."),
            (f"Your {{thing}} {what} is {found}", f"I saw your {{thing}} {what} {found}"))
    for feels, remedy in FEELINGS.items():
        add("feeling", feels, (f"I am {feels}.", f"I am so {feels} today.", f"What helps when I am {feels}?",
                               f"I feel {feels}. What should I do?"),
            (f"You need {remedy} in this {{thing}} inn", f"My {{thing}} advice is {remedy}"))
    for subject, (questions, bodies) in TALK.items():
        add("talk", subject, questions, bodies)
    return topics


def story(rng: Random) -> Topic:
    """A story about two animals; its answer names both, a place and what they found."""
    one, two = rng.sample(sorted(ANIMALS), 2)
    time, place, find = rng.choice(STORY_TIMES), rng.choice(STORY_PLACES), rng.choice(STORY_FINDS)
    return Topic(
        "story", f"{one} and {two}",
        (f"Tell me a story about the {one} and the {two}.", f"Do you know a tale of the {one} and the {two}?",
         f"Tell me about the {one} and the {two}.", f"What happened to the {one} and the {two}?"),
        (f"{time} the {{living}} {one} and the {{other}} {two} found {find} {place}",
         f"{time} the {{living}} {one} met the {{other}} {two} {place} and they found {find}"))


def unknown(rng: Random, words: tuple[str, ...] = FOREIGN) -> Topic:
    """A question about something outside the village: about `words`, or a word that does not exist."""
    x, y = rng.sample(words, 2)
    if rng.random() < 0.3:
        x = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 8)))
    question = rng.choice(FOREIGN_QUESTIONS).format(x=x, y=y)
    return Topic("unknown", x, (question,), FOREIGN_ANSWERS)


def check_lengths():
    """A warm line and the grumpy line of the same index are equally long, so length does not tell the moods apart."""
    for table in (OPENERS, CLOSERS, LIVING, THINGS, *TAILS.values()):
        lengths = [[len(re.findall(r"\w+|[^\w\s]", line)) for line in table[mood]] for mood in MOODS]
        assert lengths[0] == lengths[1], table


def mood_of(question: str, text: str) -> str | None:
    """The mood of an answer: warm, grumpy or "mixed"; None if it is no sentence of this language that answers `question`."""
    def one_of(lines):
        return f"(?:{'|'.join(map(re.escape, lines))})"

    names = re.fullmatch(r".* the (\w+) and the (\w+)[.?]", question)
    if names:
        one, two = names.groups()
        found, place = one_of(STORY_FINDS), one_of(STORY_PLACES)
        start = f"{one_of(STORY_TIMES)} the {{living}} {one}"
        domain, bodies = "story", [f"{start} and the {{other}} {two} found {found} {place}",
                                   f"{start} met the {{other}} {two} {place} and they found {found}"]
    else:
        topic = next((t for t in facts() if question in t.questions), Topic("unknown", "", (question,), FOREIGN_ANSWERS))
        domain, bodies = topic.domain, topic.bodies  # no fact has a character that means something in a pattern
    joint = r"\. " if domain == "story" else ", "
    fits = []
    for first in MOODS:
        for middle in MOODS:
            for last in MOODS:
                body = "|".join(bodies).format(
                    living=one_of(LIVING[middle]), other=one_of(LIVING[middle]), thing=one_of(THINGS[middle]))
                tail = f"(?:{joint}{one_of(TAILS[domain][middle])})?"
                if re.fullmatch(f"{one_of(OPENERS[first])} (?:{body}){tail}\\.(?: {one_of(CLOSERS[last])})?", text):
                    fits.append({first, middle, last})
    pure = [moods for moods in fits if len(moods) == 1]
    return None if not fits else pure[0].pop() if pure else "mixed"
