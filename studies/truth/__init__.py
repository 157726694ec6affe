"""The oracle study's parts: tiny networks, their exact answers, measurements of the product against them."""
