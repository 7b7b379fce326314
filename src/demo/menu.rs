//! The 25 dishes of the made-up history. Plain constants; no name needs escaping in JSON.

pub struct Item {
    pub id: &'static str,
    pub name: &'static str,
    pub category: &'static str,
    pub price_cents: u64,
}

/// The most popular first.
pub static ITEMS: [Item; 25] = [
    item("food_001", "Pizza Margherita", "pizza", 950),
    item("food_002", "Classic Cheeseburger", "burger", 1190),
    item("food_003", "Salmon Nigiri Set", "sushi", 1680),
    item("food_004", "Pad Thai", "thai", 1250),
    item("food_005", "Chicken Tikka Masala", "indian", 1390),
    item("food_006", "Pizza Diavola", "pizza", 1175),
    item("food_007", "Caesar Salad", "salad", 895),
    item("food_008", "Bacon Smash Burger", "burger", 1345),
    item("food_009", "Beef Tacos", "mexican", 1020),
    item("food_010", "California Roll", "sushi", 999),
    item("food_011", "Green Curry", "thai", 1295),
    item("food_012", "Tiramisù", "dessert", 650),
    item("food_013", "Pizza Quattro Formaggi", "pizza", 1225),
    item("food_014", "Lasagne alla Bolognese", "pasta", 1280),
    item("food_015", "Veggie Burger", "burger", 1130),
    item("food_016", "Palak Paneer", "indian", 1160),
    item("food_017", "Spicy Tuna Roll", "sushi", 1085),
    item("food_018", "Burrito Bowl", "mexican", 1115),
    item("food_019", "Spaghetti Carbonara", "pasta", 1199),
    item("food_020", "Greek Salad", "salad", 840),
    item("food_021", "Crème Brûlée", "dessert", 705),
    item("food_022", "Mango Lassi", "drink", 425),
    item("food_023", "Chicken Quesadilla", "mexican", 965),
    item("food_024", "Homemade Lemonade", "drink", 380),
    item("food_025", "Sashimi Deluxe", "sushi", 2499),
];

const fn item(
    id: &'static str,
    name: &'static str,
    category: &'static str,
    price_cents: u64,
) -> Item {
    Item { id, name, category, price_cents }
}
