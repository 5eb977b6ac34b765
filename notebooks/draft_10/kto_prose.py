PROSE = {
"MINUTES": "TO MEASURE",
"TOYPROSE": "Not the RLHF optimum. KTO first moves towards what is liked, then gives up the answer that most people dislike (last line: 0.000, where the RLHF optimum keeps 0.029), and between the two that most people like it stops near where they started. A thumb says liked or not; by how much more one liked answer is liked than another, it does not say. (The paper: with contradictory thumbs KTO goes with the majority.)",
"Z0PROSE": "Answers under the wrong question became *less* probable, so the estimate is cut off at 0, although the KL is not 0. Here the reference point hardly moves; what is left of KTO is a push up for each liked answer and a push down for each disliked one, which wears off.",
}
