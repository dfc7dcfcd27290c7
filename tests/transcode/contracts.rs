//! What is agreed on with clients, and what is made of answers, holds for what the gateway makes of calls.

use super::*;

#[test]
fn a_form_that_a_client_chooses_is_no_way_around_a_contract() {
    let contract = |mode: &str| {
        format!(
            "answer_contract: {{ mode: {mode}, schema: {{ type: array, items: {{ type: object, properties: {{ sku: {{}} }}, additionalProperties: false }} }} }}"
        )
    };
    for (mode, status) in [("strip", 502), ("enforce", 502), ("report", 200)] {
        let shop = shop_with("", &format!("      - {{ path: '/*', service: shop, policies: {{ {} }} }}", contract(mode)));
        assert_eq!(shop.get("/v1/watch?count=2").text(), r#"[{"sku":"0"},{"sku":"1"}]"#, "{mode}");
        for accept in ["application/x-ndjson", "text/event-stream"] {
            let answer = request(shop.gateway.port(), "GET", "/v1/watch?count=2", &[("Accept", accept)], b"");
            assert_eq!(answer.status, status, "{mode} {accept}: {}", answer.text());
            if status == 502 {
                answer.assert_problem(502, "answer_contract", "answer_breaks_contract");
            }
        }
    }
}

#[test]
fn what_is_said_of_a_failed_call_is_not_reshaped() {
    let shop =
        shop_with("", "      - { path: '/*', service: shop, policies: { reshape: { response: [ { keep: [ /sku ] } ] } } }");
    assert_eq!(shop.get("/v1/products/a").text(), r#"{"sku":"a"}"#);
    shop.get("/v1/fail/5").assert_problem(404, "transcode", "call_failed");
}
