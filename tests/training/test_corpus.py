"""A page becomes paragraphs of prose, and the split depends on its path alone."""

from training.corpus import is_held_out, page_text

PAGE = """<html><head><title>skipped</title></head><body>
<div class="related"><p>navigation, <div>nested</div> too</p></div>
<h1>Sorting<a class="headerlink" href="#s">\xb6</a></h1>
<p>The  <code>sort</code> method sorts\nin place \u2014 it\u2019s stable.</p>
<pre>
for name in names:
    print(name)

done()
</pre>
<table><tr><td>skipped</td></tr></table>
<p>one</p><p>two</p><p>three</p><p>four</p>
<p>0x00 0x01 0x02 == 17, 18, 19</p>
<p>The last paragraph ends without a closing tag.
</body></html>"""


def test_page_text_keeps_prose_and_code_but_no_navigation():
    assert page_text(PAGE).split("\n\n") == [
        "Sorting",
        "The sort method sorts in place -- it's stable.",
        "for name in names:\n    print(name)\ndone()",
        "The last paragraph ends without a closing tag.",
    ]


def test_page_text_of_nothing_is_empty():
    assert page_text("") == ""
    assert page_text("<p><pre></p></pre>") == ""


def test_split_is_stable_and_holds_out_about_two_percent():
    held_out = [is_held_out("package", f"page{number}.html") for number in range(5000)]
    assert 0.01 < sum(held_out) / len(held_out) < 0.03
    assert held_out == [is_held_out("package", f"page{number}.html") for number in range(5000)]
