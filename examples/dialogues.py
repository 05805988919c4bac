"""What the assistant of Larkfield, the invented shop, answers: facts it should know, asked in many ways.

Written for this project, in the notation of sentences.py. Each topic has questions, one answer in the house's voice
(short, friendly, one fact and one next step), and follow-up turns.
"""

from typing import NamedTuple


class Topic(NamedTuple):
    """A fact of the shop: how people ask for it, what to answer, and (question, answer) pairs that may follow."""

    questions: tuple[str, ...]
    answer: str
    follow_ups: tuple[tuple[str, str], ...] = ()


TOPICS: tuple[Topic, ...] = (
    Topic(
        (
            "How long does delivery take?", "When does an order usually arrive?",
            "I order a {product} today, when is it here?", "What are your delivery times?",
            "Is a {product} shipped quickly?", "How many days until my {product} reaches {city}?",
        ),
        "Delivery takes three to five working days. You get a tracking link by email once the parcel leaves us.",
        (("Is there a faster way?", "Yes: express delivery takes one working day and costs 7.90 euros."),),
    ),
    Topic(
        (
            "What does shipping cost?", "Is delivery free?", "How much do I pay for postage on a {product}?",
            "From what amount is shipping free?", "Do you charge for sending a {product} to {city}?",
        ),
        "Shipping costs 4.90 euros and is free from 60 euros. The basket shows the exact amount before you pay.",
        (("And for bulky things?", "Bulky articles such as benches cost 19 euros, whatever the order is worth."),),
    ),
    Topic(
        (
            "How long can I return something?", "What is your return period?",
            "Until when may I send back a {product}?",
            "I want to return a {product}, how many days do I have?", "Can I still return what I bought {when}?",
        ),
        "You can return everything within 30 days. Print the label from your account and bring it to a post office.",
        (("Who pays for the label?", "We do: returns are free within the country."),),
    ),
    Topic(
        (
            "How fast is a refund?", "When do I get my money back?", "My return arrived {when}, when will you pay?",
            "How long until the refund for a {product} is on my account?", "To where is the money for a return sent?",
        ),
        "We refund within five working days after the return arrives. The money goes back the way you paid.",
    ),
    Topic(
        (
            "My {product} came damaged, what now?", "The {product} is broken, can I get a new one?",
            "What do I do with a cracked {product}?", "A parcel arrived crushed, whom do I tell?",
        ),
        "We are sorry about that! Send a photo to the support desk within 14 days and we replace the article for free.",
        (("Must I send the broken one back?", "No, please keep or recycle it, the photo is all we need."),),
    ),
    Topic(
        (
            "Can I cancel an order?", "I want to cancel the {product} from {when}.", "How do I stop an order?",
            "Is it possible to call off my purchase of a {product}?", "Where is the cancel button?",
        ),
        "You can cancel until the parcel is packed. Open the order in your account and choose Cancel.",
        (("It says packed already.", "Then refuse the parcel at the door, and we refund you once it is back."),),
    ),
    Topic(
        (
            "Which ways to pay do you accept?", "Can I pay by invoice?", "Do you take credit cards?",
            "How can I pay for a {product}?", "Is paying in instalments possible?",
        ),
        "We accept cards, bank transfer and invoice. You choose the way to pay in the last step of the checkout.",
        (("How long do I have with an invoice?", "An invoice is due 14 days after the parcel has left us."),),
    ),
    Topic(
        (
            "Do you deliver abroad?", "Can you send a {product} to another country?", "Which countries do you ship to?",
            "I live outside the country, may I order a {product}?",
        ),
        "We deliver to twelve countries in Europe. The list and the prices are on the page Shipping.",
    ),
    Topic(
        (
            "Do you have a shop I can visit?", "Where is your store?",
            "Can I see the {product} somewhere before I buy it?",
            "Is there a Larkfield in {city}?", "Do you have a showroom?",
        ),
        "Our showroom is in Millbrook, open from Tuesday to Saturday, 10 to 18. Most articles are on display there.",
        (("Can I collect an order there?", "Yes: choose Collect at the checkout, it is free and ready in two days."),),
    ),
    Topic(
        (
            "How long is the warranty?", "Is there a guarantee on the {product}?",
            "My {product} broke after a year, do I get help?", "What does your warranty cover?",
        ),
        "Everything has a warranty of three years. Write to the support desk with the order number and a photo.",
        (("I lost the receipt.", "That is fine, we find your purchase by the email address you used."),),
    ),
    Topic(
        (
            "How do I reset my password?", "I cannot log in any more.", "I forgot the password of my account.",
            "Where can I set a new password?",
        ),
        "Choose Forgotten password on the login page. You get a link by email that is valid for one hour.",
        (("No mail arrives.", "Please look into the spam folder, then write to us and we send it by hand."),),
    ),
    Topic(
        (
            "Where do I enter a discount code?", "How can I use my voucher?",
            "My coupon for a {product}, where does it go?",
            "Can I redeem a gift card online?",
        ),
        "Enter the code in the basket, below the sum. One code can be used for each order.",
        (("It was refused.", "Please check the date on it: codes are valid for 90 days."),),
    ),
    Topic(
        (
            "Do you wrap gifts?", "Can the {product} be sent as a present?",
            "It is a gift for {person}, can you wrap it?",
            "How much is gift wrapping?",
        ),
        "Gladly! Gift wrapping costs 3.50 euros. Tick Gift in the basket, and we leave the prices out of the parcel.",
        (("Can I add a note?", "Yes, there is a field for up to 200 characters, which we print on a card."),),
    ),
    Topic(
        (
            "Where do I find my invoice?", "I need a receipt for the {product}.", "Can you send me the bill again?",
            "How do I get a VAT invoice?",
        ),
        "Every invoice is in your account under Orders, as a PDF. It can be printed with your company's name.",
    ),
    Topic(
        (
            "When is the {product} back in stock?", "Will you get more of the {colour} {product}?",
            "The {product} is sold out, what can I do?", "Can you tell me when a {product} is available again?",
        ),
        "Choose Remind me on the article's page. We write to you on the day new stock arrives.",
    ),
    Topic(
        (
            "Can you change my delivery address?", "I moved to {city}, where do I update my address?",
            "The address on my order is wrong.", "Please send the {product} to {person} instead.",
        ),
        "You can change the address until the parcel is packed. Open the order in your account and choose Edit.",
    ),
    Topic(
        (
            "What is the {product} made of?", "Is your wood sustainable?", "Where do your products come from?",
            "Is the {product} made in a fair way?",
        ),
        "Our wood is certified and most articles are made in Europe. The article's page names the workshop.",
    ),
    Topic(
        (
            "How do I care for a {product}?", "How do I clean my {product}?",
            "Can the {product} stay outside in winter?",
            "Does a {product} need oiling?",
        ),
        "Each article has a care sheet on its page, under Details. When in doubt, use a soft cloth and no cleaner.",
        (("Do you sell oil for wood?", "Yes, our linseed oil is in the category Care, from 8.50 euros."),),
    ),
    Topic(
        (
            "How do I delete my account?", "Please erase my data.", "I want to close my customer account.",
            "What happens to my data when I leave?",
        ),
        "Choose Close account in your settings. We erase your data within 30 days, except what the law makes us keep.",
    ),
    Topic(
        (
            "How can I reach a human?", "What are your support hours?", "Can I talk to somebody about my {product}?",
            "Is the support desk open at the weekend?",
        ),
        "People answer from Monday to Friday, 8 to 17. Write to us, and we reply within one working day.",
    ),
)  # fmt: skip
